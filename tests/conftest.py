"""Shared by all tests."""

import os

os.environ.setdefault('CUDA_VISIBLE_DEVICES', '')
