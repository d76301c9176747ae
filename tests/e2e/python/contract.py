"""The messages of proto/, as Python classes that protoc generates at each start: never stale, nothing of ours between.

`from contract import batch_pb2` works once this module is imported.
"""

import atexit
import pathlib
import shutil
import sys
import tempfile

from grpc_tools import protoc

_PROTO = pathlib.Path(__file__).resolve().parents[3] / "proto" / "proto"
_OUT = tempfile.mkdtemp(prefix="headwater-contract-")
atexit.register(shutil.rmtree, _OUT, ignore_errors=True)

_files = sorted(str(path) for path in (_PROTO / "headwater" / "v1").glob("*.proto"))
if protoc.main(["protoc", f"-I{_PROTO}", f"--python_out={_OUT}", *_files]) != 0:
    sys.exit(f"protoc refused the files in {_PROTO}")
sys.path.insert(0, _OUT)

from headwater.v1 import batch_pb2, command_pb2, fleet_pb2, link_pb2, live_pb2, reading_pb2  # noqa: E402

__all__ = ["batch_pb2", "command_pb2", "fleet_pb2", "link_pb2", "live_pb2", "reading_pb2"]
