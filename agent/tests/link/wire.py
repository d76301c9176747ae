"""A wire between two tun devices, which are gone when this ends: NEAR FAR as arguments. Each line of standard input says how packets fare
from then on, in both directions: loss in percent, delay and jitter in milliseconds. Says "ready" when both ends are there."""

import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

# linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x1001


def end(name):
    """One end: packets of the network layer are read from it and written to it."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN_NO_PI))
    return tun


near, far = (end(name) for name in sys.argv[1:3])
other = {near: far, far: near}
# The same packets are lost in every run, as far as the same ones come.
chance = random.Random(1)
loss, delay, jitter = 0.0, 0.0, 0.0
# When, in which order, where to, what.
under_way = []
count = 0
print("ready", flush=True)

while True:
    wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
    for ready in select.select([near, far, sys.stdin], [], [], wait)[0]:
        if ready is sys.stdin:
            line = sys.stdin.readline()
            if not line:
                sys.exit()
            loss, delay, jitter = (float(word) for word in line.split())
            continue
        packet = os.read(ready, 65536)
        if chance.uniform(0, 100) >= loss:
            count += 1
            at = time.monotonic() + (delay + chance.uniform(0, jitter)) / 1000
            heapq.heappush(under_way, (at, count, other[ready], packet))
    while under_way and under_way[0][0] <= time.monotonic():
        _, _, to, packet = heapq.heappop(under_way)
        try:
            os.write(to, packet)
        except OSError:
            # That end is down.
            pass
