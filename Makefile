# make demo   install, train PeLK + UperNet on digit scenes, test it, draw pictures
# make test   install with mmcv's compiled operators, run all tests
# STACK=openmmlab takes the original OpenMMLab packages instead of the maintained OneDL forks.
STACK ?= onedl
VENV ?= .venv-$(STACK)
PY := $(VENV)/bin/python
DEMO := work_dirs/demo-$(STACK)
DEMO_CONFIG := configs/demo/upernet_pelk_atto_digits.py
# The parts that read the demo's pictures need no screen.
export MPLBACKEND := Agg

.PHONY: demo test env env-compiled lint clean-demo

demo: env data/digit_scenes $(DEMO)/trained
	$(PY) tools/test.py $(DEMO_CONFIG) $$(cat $(DEMO)/last_checkpoint) --work-dir $(DEMO)
	$(PY) tools/plot_training.py $(DEMO)
	$(PY) tools/image_demo.py $(DEMO_CONFIG) $$(cat $(DEMO)/last_checkpoint) \
		data/digit_scenes/images/validation/validation_000*.jpg --out-dir $(DEMO)/overlays --grid
	@echo "demo done: curves in $(DEMO)/curves.png, overlays in $(DEMO)/overlays (all at once: $(DEMO)/overlays/grid.png)"

data/digit_scenes: | env
	$(PY) tools/make_digit_scenes.py $@

$(DEMO)/trained: | env data/digit_scenes
	$(PY) tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO) --resume
	@touch $@

test: env-compiled lint
	$(PY) -m pytest

lint: env-compiled
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

env:
	@bash tools/setup_env.sh $(VENV) $(STACK)

env-compiled:
	@bash tools/setup_env.sh $(VENV) $(STACK) --compiled-ops

clean-demo:
	rm -rf $(DEMO) data/digit_scenes
