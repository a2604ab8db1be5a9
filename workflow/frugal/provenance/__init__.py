"""Where results come from: the machine, the software, the sources, and the key under which a device's results are kept.

Nothing is set on any device. Importing this package loads neither torch nor pyarrow; `collect` does.
"""

from .device import check_device, device_key, device_record, write_device_record
from .run import collect, machine_hash, new_ulid
from .software import git_state, lock_hash
from .sources import source_hash

__all__ = [
    "check_device",
    "collect",
    "device_key",
    "device_record",
    "git_state",
    "lock_hash",
    "machine_hash",
    "new_ulid",
    "source_hash",
    "write_device_record",
]
