"""A Modbus server for the tests: `server.py tcp PORT` or `server.py rtu PATH`. What its devices hold comes as JSON on its standard
input: {"1": {"holding": [[address, kind, value, order], …], "input": …, "coil": [[address, [true, …]], …], "discrete": …}}.
Words are made of values by pymodbus, so that what the agent reads is checked by code that is not ours. Prints "ready"."""

import asyncio
import json
import sys

from pymodbus import pymodbus_apply_logging_config
from pymodbus.client.mixin import ModbusClientMixin
from pymodbus.exceptions import NoSuchIdException
from pymodbus.framer import FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

KINDS = ModbusClientMixin.DATATYPE


def words(kind, value, order):
    if kind == "raw":
        return value
    swapped_words = order in ("CDAB", "DCBA") and kind != "STRING"
    made = ModbusClientMixin.convert_to_registers(value, KINDS[kind], word_order="little" if swapped_words else "big")
    if order in ("BADC", "DCBA"):
        made = [(word & 0xFF) << 8 | word >> 8 for word in made]
    return made


def registers(entries):
    return [SimData(address, values=words(*rest), datatype=DataType.REGISTERS) for address, *rest in entries] or [
        SimData(65535, values=0, datatype=DataType.REGISTERS)
    ]


def bits(entries):
    return [SimData(address, values=values, datatype=DataType.BITS) for address, values in entries] or [
        SimData(65535, values=False, datatype=DataType.BITS)
    ]


async def main():
    how, where = sys.argv[1:3]
    held = json.loads(sys.stdin.readline())
    devices = [
        SimDevice(
            int(unit),
            simdata=(
                bits(tables.get("coil", [])),
                bits(tables.get("discrete", [])),
                registers(tables.get("holding", [])),
                registers(tables.get("input", [])),
            ),
        )
        for unit, tables in held.items()
    ]
    if how == "tcp":
        server = ModbusTcpServer(devices, address=("127.0.0.1", int(where)))
    else:
        server = ModbusSerialServer(
            devices, framer=FramerType.RTU, port=where, baudrate=19200, parity="N", ignore_missing_devices=True
        )

    # Without this an unknown id is an error in the server. A gateway says that nobody answers; on a line nobody does.
    known = server.context.async_getValues

    async def of_known(device_id, *rest):
        if str(device_id) not in held:
            raise NoSuchIdException(device_id)
        return await known(device_id, *rest)

    server.context.async_getValues = of_known
    serving = asyncio.create_task(server.serve_forever())
    while not server.is_active() and not server.transport:
        await asyncio.sleep(0.01)
        if serving.done():
            await serving
    print("ready", flush=True)
    await serving


pymodbus_apply_logging_config("CRITICAL")
asyncio.run(main())
