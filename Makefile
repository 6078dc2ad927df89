# make demo       install, train PeLK + UperNet on digit scenes, test it, draw pictures
# make demo-det   the same with Cascade Mask R-CNN: boxes and masks
# make demo-cls   install, pre-train a sparse PeLK on digits, test it, draw pictures; demo-transfer goes on from it
# make demo-transfer   UperNet on digit scenes from that checkpoint, its zeros kept, and from scratch for as long
# make demo-onnx  the model of make demo as ONNX, and pictures by onnxruntime alone
# make docs       the site, in site/
# make test       install with mmcv's compiled operators, check style, run all tests
# STACK=openmmlab takes the original OpenMMLab packages instead of the maintained OneDL forks.
STACK ?= onedl
VENV ?= .venv-$(STACK)
PY := $(VENV)/bin/python
SEG := work_dirs/demo-$(STACK)
DET := work_dirs/demo-det-$(STACK)
SEG_CONFIG := configs/demo/upernet_pelk_atto_digits.py
DET_CONFIG := configs/demo/cascade_mask_rcnn_pelk_atto_digits.py
CLS := work_dirs/demo-cls-$(STACK)
CLS_CONFIG := configs/demo/pelk_atto_digits_cls.py
TRANSFER := work_dirs/demo-transfer-$(STACK)
SHORT := --cfg-options train_cfg.max_iters=200 train_cfg.val_interval=200 param_scheduler.1.end=200
SCENES := data/digit_scenes/images/validation/validation_000*.jpg
# Pictures are drawn without a screen.
export MPLBACKEND := Agg

.PHONY: demo demo-det demo-cls demo-onnx demo-transfer docs test lint env env-compiled clean-demo

demo: env $(SEG)/trained
	$(call test_and_draw,$(SEG_CONFIG),$(SEG),$(SCENES))

demo-det: env-compiled $(DET)/trained
	$(call test_and_draw,$(DET_CONFIG),$(DET),$(SCENES))

demo-cls: env $(CLS)/trained
	$(call test_and_draw,$(CLS_CONFIG),$(CLS),data/digits/val/*/*_0000.jpg)

demo-onnx: env $(SEG)/trained
	$(PY) tools/export.py $(SEG_CONFIG) $$(cat $(SEG)/last_checkpoint) $(SEG)/model.onnx --dynamic --images $(SCENES)
	$(PY) tools/onnx_demo.py $(SEG)/model.onnx $(SCENES) --out-dir $(SEG)/onnx

demo-transfer: env $(CLS)/trained data/digit_scenes
	$(PY) tools/train.py $(SEG_CONFIG) --work-dir $(TRANSFER)/pretrained --pretrained $$(cat $(CLS)/last_checkpoint) $(SHORT)
	$(PY) tools/train.py $(SEG_CONFIG) --work-dir $(TRANSFER)/scratch $(SHORT)

# Test and draw: $(1) the config, $(2) the work dir, $(3) the images.
define test_and_draw
$(PY) tools/test.py $(1) $$(cat $(2)/last_checkpoint) --work-dir $(2)
$(PY) tools/plot_training.py $(2)
$(PY) tools/image_demo.py $(1) $$(cat $(2)/last_checkpoint) \
	$(3) --out-dir $(2)/overlays --grid
@echo "done: curves in $(2)/curves.png, overlays in $(2)/overlays (all on one sheet: $(2)/overlays/grid.png)"
endef

# A training that was stopped goes on; a finished one is not repeated.
$(SEG)/trained: | env data/digit_scenes
	$(PY) tools/train.py $(SEG_CONFIG) --work-dir $(SEG) --resume
	@touch $@

$(DET)/trained: | env-compiled data/digit_scenes
	$(PY) tools/train.py $(DET_CONFIG) --work-dir $(DET) --resume
	@touch $@

$(CLS)/trained: | env data/digits
	$(PY) tools/train.py $(CLS_CONFIG) --work-dir $(CLS) --resume
	@touch $@

data/digits: | env
	$(PY) tools/make_digits.py $@

data/digit_scenes: | env
	$(PY) tools/make_digit_scenes.py $@

test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

docs: env-compiled
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

lint: env-compiled
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

env:
	@bash tools/setup_env.sh $(VENV) $(STACK)

env-compiled:
	@bash tools/setup_env.sh $(VENV) $(STACK) --compiled-ops

clean-demo:
	rm -rf $(SEG) $(DET) $(CLS) $(TRANSFER) data/digit_scenes data/digits
