/** Wrong settings: both programs say what is wrong and where, and end with a code of their own; no traces of panics. */

import assert from "node:assert/strict";
import { createServer } from "node:net";
import { join } from "node:path";
import { binaries, scenario } from "./harness/site.js";
import { until } from "./harness/until.js";

const relay = join(binaries, "headwater-relay");
const agent = join(binaries, "headwater-agent");

/** Runs a program that is expected to end by itself, with an error that matches all of `says`. */
async function refuses(site, name, command, args, says, options = {}) {
  const program = site.start(name, command, args, {
    // Where settings are right after all, no port is taken that belongs to somebody else.
    env: options.env ?? { HEADWATER_RELAY_ADMIN__LISTEN: "127.0.0.1:0" },
  });
  await until(`${name} has ended by itself`, () => program.exited, 10_000);
  const { code } = program.exited;
  const log = program.log();
  assert.ok(code > 0 && code < 100, `${name}: exit code ${code}\n${log}`);
  for (const pattern of says) assert.match(log, pattern, name);
  assert.doesNotMatch(log, /panicked|RUST_BACKTRACE/, name);
}

const WRONG = [
  [
    "unknown-key",
    '[kafka]\nbootstap = "x"\n',
    [/line 2/, /unknown key `bootstap`/, /did you mean `bootstrap`/],
    "relay",
  ],
  [
    "unknown-section",
    '[kafak]\nbootstrap = "x"\n',
    [/line 1/, /unknown key `kafak`/, /did you mean `kafka`/],
    "relay",
  ],
  ["wrong-type", '[kafka]\npartitions = "many"\n', [/line 2/, /invalid type/], "relay"],
  ["wrong-duration", '[kafka]\ntimeout = "10 parsecs"\n', [/line 2/, /is not a duration such as/], "relay"],
  ["not-a-power-of-two", "[kafka]\npartitions = 6\n", [/partitions/, /power of two/], "relay"],
  ["bad-address", '[gateway]\nlisten = "nowhere"\n', [/line 2/], "relay"],
  ["bad-broker-url", '[mqtt]\nbroker = "ftp://somewhere"\n', [/mqtt/i, /ftp/], "relay"],
  [
    "secret-unreadable",
    '[mqtt]\nuser = "relay"\npassword_file = "/nonexistent/secret"\n',
    [/\/nonexistent\/secret/, /No such file/],
    "relay",
  ],
  ["not-toml", "[kafka\n", [/line 1/], "relay"],
  [
    "unknown-key",
    '[uplink]\nbrocker = "x"\n',
    [/line 2/, /unknown key `brocker`/, /did you mean `broker`/],
    "agent",
  ],
  ["wrong-type", '[batch]\nreadings = "many"\n', [/line 2/, /invalid type/], "agent"],
  ["unknown-source", '[[source]]\ntype = "modbuss"\n', [/modbuss/, /replay/], "agent"],
  ["no-source", 'device = "a"\n', [/source/], "agent"],
  ["bad-device-name", 'device = "a/b"\n[[source]]\ntype = "simulated"\n', [/a\/b/, /device/], "agent"],
  [
    "bad-broker-url",
    '[uplink]\nbroker = "ftp://x"\n[[source]]\ntype = "simulated"\n',
    [/broker|ftp/],
    "agent",
  ],
  [
    "trace-unreadable",
    '[[source]]\ntype = "replay"\npath = "/nonexistent/trace.csv"\n',
    [/\/nonexistent\/trace\.csv/],
    "agent",
  ],
  [
    "secret-unreadable",
    '[uplink]\nuser = "gw"\npassword_file = "/nonexistent/secret"\n[[source]]\ntype = "simulated"\n',
    [/\/nonexistent\/secret/],
    "agent",
  ],
];

scenario("wrong settings are refused with file, line and what was meant", async (site) => {
  for (const [name, text, says, program] of WRONG) {
    const config = site.write(`${program}-${name}.toml`, text);
    const command = program === "relay" ? relay : agent;
    await refuses(site, `${program}-${name}`, command, ["run", "--config", config], says);
  }
});

scenario("a settings file that cannot be read is named", async (site) => {
  for (const command of [relay, agent]) {
    await refuses(
      site,
      "missing",
      command,
      ["run", "--config", site.path("none.toml")],
      [/none\.toml/, /No such file/],
    );
    await refuses(site, "directory", command, ["run", "--config", site.directory], [/directory/i]);
  }
});

scenario("an environment variable that is wrong is named", async (site) => {
  await refuses(site, "relay", relay, ["run"], [/HEADWATER_RELAY_KAFKA__BOOTSTAP/, /did you mean/], {
    env: { HEADWATER_RELAY_KAFKA__BOOTSTAP: "x" },
  });
  const config = site.write("agent.toml", '[[source]]\ntype = "simulated"\n');
  await refuses(
    site,
    "agent",
    agent,
    ["run", "--config", config],
    [/HEADWATER_AGENT_UPLINK__WINDO/, /did you mean/],
    {
      env: { HEADWATER_AGENT_UPLINK__WINDO: "x" },
    },
  );
});

scenario("an unknown command or option is refused, help is not", async (site) => {
  for (const command of [relay, agent]) {
    await refuses(site, "command", command, ["fly"], [/fly/]);
    await refuses(site, "option", command, ["run", "--confg", "x"], [/--confg/]);
    for (const option of ["--help", "--version"]) {
      const program = site.start("help", command, [option]);
      assert.equal((await program.exit).code, 0, option);
      assert.match(program.log(), /headwater/i);
    }
  }
});

scenario("a taken port is named", async (site) => {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  site.onClose(() => new Promise((resolve) => server.close(resolve)));
  const { port } = server.address();
  for (const section of ["gateway", "admin"]) {
    const config = site.write(`${section}.toml`, `[${section}]\nlisten = "127.0.0.1:${port}"\n`);
    const says = [new RegExp(String(port)), /in use/];
    await refuses(site, section, relay, ["gateway", "--config", config], says, { env: {} });
  }
});
