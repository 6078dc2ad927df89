# make demo       install, train PeLK + UperNet on digit scenes, test it, draw pictures
# make demo-det   the same with Cascade Mask R-CNN: boxes and masks
# make test       install with mmcv's compiled operators, check style, run all tests
# STACK=openmmlab takes the original OpenMMLab packages instead of the maintained OneDL forks.
STACK ?= onedl
VENV ?= .venv-$(STACK)
PY := $(VENV)/bin/python
SEG := work_dirs/demo-$(STACK)
DET := work_dirs/demo-det-$(STACK)
SEG_CONFIG := configs/demo/upernet_pelk_atto_digits.py
DET_CONFIG := configs/demo/cascade_mask_rcnn_pelk_atto_digits.py
# Pictures are drawn without a screen.
export MPLBACKEND := Agg

.PHONY: demo demo-det test lint env env-compiled clean-demo

demo: env $(SEG)/trained
	$(call test_and_draw,$(SEG_CONFIG),$(SEG))

demo-det: env-compiled $(DET)/trained
	$(call test_and_draw,$(DET_CONFIG),$(DET))

# Test and draw: $(1) the config, $(2) the work dir.
define test_and_draw
$(PY) tools/test.py $(1) $$(cat $(2)/last_checkpoint) --work-dir $(2)
$(PY) tools/plot_training.py $(2)
$(PY) tools/image_demo.py $(1) $$(cat $(2)/last_checkpoint) \
	data/digit_scenes/images/validation/validation_000*.jpg --out-dir $(2)/overlays --grid
@echo "done: curves in $(2)/curves.png, overlays in $(2)/overlays (all on one sheet: $(2)/overlays/grid.png)"
endef

# A training that was stopped goes on; a finished one is not repeated.
$(SEG)/trained: | env data/digit_scenes
	$(PY) tools/train.py $(SEG_CONFIG) --work-dir $(SEG) --resume
	@touch $@

$(DET)/trained: | env-compiled data/digit_scenes
	$(PY) tools/train.py $(DET_CONFIG) --work-dir $(DET) --resume
	@touch $@

data/digit_scenes: | env
	$(PY) tools/make_digit_scenes.py $@

test: lint
	$(PY) -m pytest

lint: env-compiled
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

env:
	@bash tools/setup_env.sh $(VENV) $(STACK)

env-compiled:
	@bash tools/setup_env.sh $(VENV) $(STACK) --compiled-ops

clean-demo:
	rm -rf $(SEG) $(DET) data/digit_scenes
