"""Load the compiled library of an installed wheel, without torch. A build in a container calls this."""

import ctypes
import importlib.util
from pathlib import Path

(package,) = importlib.util.find_spec('mmpelk').submodule_search_locations
(path,) = Path(package, 'ops/backends/native').glob('_native.*')
library = ctypes.CDLL(str(path))
library.mmpelk_instruction_set.restype = ctypes.c_char_p
print(path.name, 'with interface', library.mmpelk_version(), 'on', library.mmpelk_instruction_set(0).decode())
