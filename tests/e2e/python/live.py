"""A client of the live channel on Python's websockets, with nothing of ours between it and the relay.

Usage: live.py JSON, with the keys
  url, devices (globs), metrics (globs), mode ("ALL", "LATEST", "PRESENCE"), start ("now", "snapshot", "beginning"),
  window ([frames, bytes]), token (optional), token_in ("hello" or "subprotocol").
Prints a JSON object for everything it receives, acknowledges what it has printed, and ends when it is told to or the
relay closes.
"""

import json
import sys

import contract  # noqa: F401
from batch import readings
from contract import batch_pb2, live_pb2
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

SUBPROTOCOL = "headwater.v1"
COUNTED = {"data", "latest", "series", "presence", "gap"}


def tell(kind, **fields):
    print(json.dumps({"kind": kind, **fields}), flush=True)


def first_frames(asked):
    hello = live_pb2.ClientFrame()
    hello.hello.client = "headwater-e2e (Python websockets)"
    hello.hello.window.frames, hello.hello.window.bytes = asked.get("window", [16, 1 << 20])
    if asked.get("token") and asked.get("token_in") != "subprotocol":
        hello.hello.token = asked["token"]
    subscribe = live_pb2.ClientFrame()
    subscribe.subscribe.id = 1
    subscribe.subscribe.devices.extend(asked.get("devices", []))
    subscribe.subscribe.metrics.extend(asked.get("metrics", []))
    subscribe.subscribe.mode = live_pb2.Mode.Value("MODE_" + asked.get("mode", "ALL"))
    match asked.get("start", "now"):
        case "snapshot":
            subscribe.subscribe.start.snapshot = True
        case "beginning":
            subscribe.subscribe.start.time_us = 0
        case _:
            subscribe.subscribe.start.now = True
    return hello, subscribe


def described(kind, message):
    if kind == "data":
        batch = batch_pb2.Batch.FromString(message.batch)
        return {
            "partition": message.partition,
            "offset": message.offset,
            "device": batch.device,
            "stream": f"{batch.stream:016x}",
            "seq": batch.seq,
            "columns": readings(batch),
        }
    if kind == "latest":
        return {
            "snapshot": message.snapshot,
            "merged": message.merged,
            "batches": [{"device": batch.device, "columns": readings(batch)} for batch in message.batches],
        }
    if kind == "presence":
        return {
            "complete": message.snapshot_complete,
            "devices": [{"device": device.device, "online": device.online} for device in message.devices],
        }
    return {"text": str(message)}


def main():
    asked = json.loads(sys.argv[1])
    protocols = [SUBPROTOCOL]
    if asked.get("token") and asked.get("token_in") == "subprotocol":
        protocols.append("headwater.token." + asked["token"])
    hello, subscribe = first_frames(asked)
    with connect(asked["url"], subprotocols=protocols, compression="deflate", max_size=1 << 22) as socket:
        tell(
            "open",
            subprotocol=socket.subprotocol,
            extensions=socket.response.headers.get("Sec-WebSocket-Extensions", ""),
        )
        socket.send(hello.SerializeToString())
        socket.send(subscribe.SerializeToString())
        window = asked.get("window", [16, 1 << 20])
        frames = size = acked_frames = acked_size = 0
        while True:
            try:
                # An idle moment acknowledges what is left, as 50 ms without a frame do in other clients.
                message = socket.recv(timeout=0.05)
            except TimeoutError:
                message = None
            except ConnectionClosed as closed:
                tell("close", code=closed.rcvd.code if closed.rcvd else 1006)
                return
            if message is not None:
                frame = live_pb2.ServerFrame.FromString(message)
                kind = frame.WhichOneof("frame")
                tell(kind, **described(kind, getattr(frame, kind)))
                if kind in COUNTED:
                    frames += 1
                    size += len(message)
            half = frames - acked_frames >= window[0] / 2 or size - acked_size >= window[1] / 2
            if frames > acked_frames and (half or message is None):
                ack = live_pb2.ClientFrame()
                ack.ack.frames_total = frames
                ack.ack.bytes_total = size
                socket.send(ack.SerializeToString())
                acked_frames, acked_size = frames, size


if __name__ == "__main__":
    main()
