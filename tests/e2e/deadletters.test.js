/** Dead letters as an operator deals with them: listed, shown, and taken in once when their cause is gone. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { Device } from "./harness/device.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { binaries, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { bits } from "./harness/trace.js";
import { until } from "./harness/until.js";

const run = promisify(execFile);

scenario("letters are listed, shown, and retried once when their cause is gone", async (site) => {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  // Four readings in a batch are too many.
  const settings = { bridge: { limits: { readings: 3 } } };
  const relay = await Relay.start(site, { kafka, mosquitto, settings, part: "bridge" });
  const raised = await Relay.prepare(site, { kafka, mosquitto, part: "bridge" });
  const deadletter = async (config, ...args) => {
    try {
      const { stdout } = await run(join(binaries, "headwater-relay"), [
        "deadletter",
        ...args,
        "--config",
        config,
      ]);
      return { code: 0, stdout };
    } catch (error) {
      return { code: error.code, stdout: error.stdout, stderr: error.stderr };
    }
  };
  const list = async (...args) =>
    (await deadletter(relay.config, "list", "--json", ...args)).stdout
      .trim()
      .split("\n")
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  assert.equal((await deadletter(relay.config, "list")).stdout, "no dead letter\n");

  const stream = 0x77n;
  const device = await Device.connect(site, mosquitto, "pump");
  await device.introduce([{ stream, short: 1, firstSeq: 1n, lastSeq: 9n, ackedSeq: 0n }]);
  await device.data(device.frame(1, 1, [1]));
  await device.acked(stream, 1);
  const refused = (seq) =>
    device.acks.some((ack) => ack.refusals.some((refusal) => refusal.seq === BigInt(seq)));
  const refuse = async (seq, frame) => {
    await until(`batch ${seq} is refused`, async () => {
      await device.data(frame);
      return refused(seq);
    });
    await device.data(device.loss(1, seq, { through: seq, readings: 4 }));
    await device.acked(stream, seq);
  };
  await refuse(2, device.frame(1, 2, [2, 2.5, 2.75, 3]));
  // This one is broken, whatever the limits.
  const whole = device.frame(1, 3, [4, 5, 6]);
  await refuse(3, whole.subarray(0, whole.length - 3));
  const other = await Device.connect(site, mosquitto, "valve");
  await other.publish("hello", [0xf0, 1, 1]);
  await until("there are three letters", async () => (await list()).length === 3);

  const letters = await list();
  assert.deepEqual(
    letters.map((letter) => [letter.device, letter.retried]),
    [
      ["pump", false],
      ["pump", false],
      ["valve", false],
    ],
  );
  assert.deepEqual(await list("--device", "valve"), [letters[2]]);
  assert.deepEqual(await list("--reason", letters[0].reason), [letters[0]]);
  assert.deepEqual(await list("--limit", "1"), [letters[2]]);
  assert.equal((await list("--since", "1h")).length, 3);
  assert.equal((await list("--since", "2100-01-01T00:00:00Z")).length, 0);
  const table = (await deadletter(relay.config, "list")).stdout.split("\n");
  assert.match(table[0], /^LETTER +TIME +DEVICE +BYTES +RETRIED +REASON$/);
  assert.ok(table[1].startsWith(letters[0].letter) && table[1].endsWith(letters[0].reason));

  const [fat, broken, hello] = letters.map((letter) => letter.letter);
  const shown = JSON.parse((await deadletter(relay.config, "show", fat, "--json")).stdout);
  assert.deepEqual([shown.stream, shown.seq], ["0000000000000077", "2"]);
  assert.match(shown.now, /^cannot be retried: .*readings/);
  assert.match(
    (await deadletter(raised.config, "show", fat)).stdout,
    /can be retried: 4 readings of 1 metrics \(value\)/,
  );
  const file = site.path("letter");
  await deadletter(relay.config, "show", broken, "--raw", file);
  assert.deepEqual(readFileSync(file), whole.subarray(0, whole.length - 3));
  const nowhere = await deadletter(relay.config, "show", "0:999");
  assert.deepEqual([nowhere.code, /no dead letter 0:999/.test(nowhere.stderr)], [1, true]);
  assert.equal((await deadletter(relay.config, "show", "nonsense")).code, 2);

  // Nothing has changed yet; then the limit is raised.
  assert.equal((await deadletter(relay.config, "retry", fat)).code, 3);
  const dry = await deadletter(raised.config, "retry", "--every", "--dry-run");
  assert.match(dry.stdout, /1 would be retried, 0 before, 2 cannot be/);
  const telemetry = new Telemetry(site, kafka);
  const outcomes = await Promise.all([
    deadletter(raised.config, "retry", fat),
    deadletter(raised.config, "retry", fat),
  ]);
  // One of two at once may have been fenced off; together they have done it, once.
  assert.ok(
    outcomes.some(({ code }) => code === 0),
    JSON.stringify(outcomes),
  );
  const again = await deadletter(raised.config, "retry", "--every");
  assert.match(again.stdout, /0 retried, 1 before, 2 cannot be/);
  assert.equal(again.code, 3);
  assert.ok(again.stdout.includes(`${hello}  valve: not retried: it holds no readings`), again.stdout);
  assert.deepEqual(
    (await list()).map((letter) => letter.retried),
    [true, false, false],
  );

  // The loss record stays; the readings are in a stream of their own.
  await device.data(device.frame(1, 4, [7]));
  await device.acked(stream, 4);
  await telemetry.untilCount("pump", 6);
  assert.equal(telemetry.checkChain("pump").length, 2);
  const values = telemetry.readings("pump").value.map(([, value]) => value);
  assert.deepEqual(values, [1, 2, 2.5, 2.75, 3, 7].map(bits));
});
