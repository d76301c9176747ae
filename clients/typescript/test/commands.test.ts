import { fromBinary } from "@bufbuild/protobuf";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Commands } from "../src/commands.js";
import { CommandError } from "../src/index.js";
import { dial, eachWithRelay, relay } from "./dial.js";
import type { Command } from "./gen/headwater/v1/command_pb.js";
import { ClientFrameSchema } from "./gen/headwater/v1/live_pb.js";
import { until } from "./until.js";

eachWithRelay();

const reply =
  (status: number, output = "") =>
  (command: Command) =>
    ({ case: "reply", value: { id: command.id, device: command.device, status, output } }) as const;

async function failure(promise: Promise<unknown>): Promise<CommandError> {
  const error = await promise.then(
    () => null,
    (error) => error,
  );
  expect(error).toBeInstanceOf(CommandError);
  return error;
}

describe("a command", () => {
  it("brings the device's answer, be it success or failure", async () => {
    const connection = dial();
    relay.answer = reply(1, "done");
    const before = Date.now();
    const answered = await connection.command({
      device: "a",
      name: "set",
      arguments: ["x", ""],
      expiresInMs: 9000,
    });
    expect(answered).toMatchObject({ device: "a", status: "ok", output: "done" });
    const [sent] = relay.commands;
    expect(sent).toMatchObject({ id: answered.id, device: "a", name: "set", arguments: ["x", ""] });
    expect(sent.id).toMatch(/^[0-9a-f]{32}$/);
    expect(Number(sent.expiresUs) / 1000 - before).toBeGreaterThanOrEqual(8900);
    relay.answer = reply(2, "broken");
    expect(await connection.command({ device: "a", name: "set" })).toMatchObject({
      status: "failed",
      output: "broken",
    });
  });

  it.each([
    [3, "expired"],
    [4, "unknown device"],
    [5, "unknown command"],
    [6, "refused"],
    [0, "unspecified"],
  ])("that is answered with status %i is rejected: %s", async (status, reason) => {
    relay.answer = reply(status, "because");
    const error = await failure(dial().command({ device: "a", name: "n" }));
    expect(error).toMatchObject({ reason, device: "a", message: "because", id: relay.commands[0].id });
  });

  it("that the relay refuses is rejected with its reason; other commands go on", async () => {
    const connection = dial();
    const errors: Error[] = [];
    connection.on("error", ({ error }) => errors.push(error));
    relay.answer = (command) =>
      command.device === "theirs"
        ? { case: "error", value: { code: 2, message: "not yours", command: command.id } }
        : reply(1)(command);
    const [theirs, mine] = [
      connection.command({ device: "theirs", name: "n" }),
      connection.command({ device: "mine", name: "n" }),
    ];
    expect(await failure(theirs)).toMatchObject({ reason: "forbidden", message: "not yours" });
    expect((await mine).status).toBe("ok");
    expect(errors).toEqual([]);
  });

  it("is sent again under its id after a reconnect, and where the relay was unavailable", async () => {
    const connection = dial();
    const answer = connection.command({ device: "a", name: "n" });
    await until(() => relay.commands.length === 1);
    relay.break();
    await until(() => relay.commands.length === 2);
    relay.answer = (command) =>
      relay.commands.length < 4
        ? { case: "error", value: { code: 5, message: "Kafka is away", command: command.id } }
        : reply(1)(command);
    relay.break();
    expect((await answer).status).toBe("ok");
    expect(relay.commands.length).toBe(4);
    expect(new Set(relay.commands.map(({ id }) => id)).size).toBe(1);
    relay.break();
    await until(() => (connection.stats?.connections ?? 0) === 4);
    expect(relay.commands.length).toBe(4);
  });

  it("that finds the token without the right is rejected, sent or not", async () => {
    relay.mayCommand = false;
    const connection = dial();
    expect(await failure(connection.command({ device: "a", name: "n" }))).toMatchObject({
      reason: "forbidden",
    });
    expect(await failure(connection.command({ device: "a", name: "n" }))).toMatchObject({
      reason: "forbidden",
    });
    expect(relay.commands).toEqual([]);
  });

  it("can be given up, and is rejected when the connection is closed", async () => {
    const connection = dial();
    const control = new AbortController();
    const given = connection.command({ device: "a", name: "n", signal: control.signal });
    await until(() => relay.commands.length === 1);
    control.abort(new RangeError("enough"));
    await expect(given).rejects.toThrow("enough");
    await expect(connection.command({ device: "a", name: "n", signal: control.signal })).rejects.toThrow(
      "enough",
    );
    const last = connection.command({ device: "a", name: "n", id: "mine" });
    await expect(connection.command({ device: "a", name: "n", id: "mine" })).rejects.toThrow(/under way/);
    connection.close();
    expect(await failure(last)).toMatchObject({ reason: "closed", id: "mine" });
    await expect(connection.command({ device: "a", name: "n" })).rejects.toThrow("closed");
  });
});

describe("a command's time", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  const sent: Command[] = [];
  /** With a relay whose clock is an hour ahead. */
  const commands = () => {
    sent.length = 0;
    const transmit = (bytes: Uint8Array) => {
      const { frame } = fromBinary(ClientFrameSchema, bytes);
      if (frame.case === "command") sent.push(frame.value);
    };
    return new Commands(transmit, () => Date.now() + 3_600_000);
  };

  it("runs by the relay's clock, from when it was issued", async () => {
    const pending = commands();
    const begun = Date.now();
    const reply = pending.issue({ device: "a", name: "n", expiresInMs: 10_000 });
    await vi.advanceTimersByTimeAsync(4000);
    pending.connected(true);
    pending.disconnected();
    await vi.advanceTimersByTimeAsync(4000);
    pending.connected(true);
    const expires = sent.map(({ expiresUs }) => Number(expiresUs) / 1000 - begun);
    expect(expires).toEqual([3_610_000, 3_610_000]);
    const [{ id }] = sent;
    pending.replied({ case: "reply", id, device: "a", status: "ok", output: "", repliedUs: 1 });
    await expect(reply).resolves.toMatchObject({ status: "ok", repliedUs: 1 });
    expect(vi.getTimerCount()).toBe(0);
  });

  it("ends at once where it never was sent, and a while after it where it was", async () => {
    const pending = commands();
    const never = failure(pending.issue({ device: "a", name: "n", expiresInMs: 1000 }));
    await vi.advanceTimersByTimeAsync(1000);
    expect(await never).toMatchObject({ reason: "expired" });
    pending.connected(true);
    expect(sent).toEqual([]);
    const silent = pending.issue({ device: "a", name: "n", expiresInMs: 1000 });
    const ended = vi.fn();
    silent.catch(ended);
    await vi.advanceTimersByTimeAsync(5900);
    expect(ended).not.toHaveBeenCalled();
    await vi.advanceTimersByTimeAsync(200);
    expect(await failure(silent)).toMatchObject({ reason: "no reply", device: "a" });
    // Too late for the second connection.
    pending.connected(true);
    expect(sent).toHaveLength(1);
    expect(vi.getTimerCount()).toBe(0);
  });

  it("does not let more than a thousand wait", async () => {
    const pending = commands();
    const all = Array.from({ length: 1000 }, () => failure(pending.issue({ device: "a", name: "n" })));
    expect(await failure(pending.issue({ device: "a", name: "n" }))).toMatchObject({ reason: "limit" });
    pending.close();
    expect((await Promise.all(all)).every(({ reason }) => reason === "closed")).toBe(true);
    expect(vi.getTimerCount()).toBe(0);
  });
});
