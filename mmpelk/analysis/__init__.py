"""The paper's evidence, computed: complexity, receptive fields, throughput."""
