import { describe, expect, it } from "vitest";
import { dial, eachWithRelay, relay } from "./dial.js";
import { until } from "./until.js";

eachWithRelay();

describe("a token", () => {
  it("stops at a refused token instead of trying for ever", async () => {
    relay.judge = () => 4401;
    const connection = dial({ token: "old" });
    await until(() => connection.status.state === "closed");
    expect(connection.status).toMatchObject({ error: { code: 4401, remedy: "token" } });
    expect(relay.hellos).toEqual(["old"]);
  });

  it("asks for a fresh token once, and goes on with it", async () => {
    let issued = 0;
    relay.judge = (token) => (token === "token 2" ? 0 : 4401);
    const connection = dial({ token: async () => `token ${++issued}` });
    await until(() => connection.status.state === "open");
    expect(relay.hellos).toEqual(["token 1", "token 2"]);
  });

  it("replaces a token in band before it expires", async () => {
    let issued = 0;
    relay.tokenExpiresUs = BigInt(Date.now() + 200) * 1000n;
    dial({ token: () => `token ${++issued}` });
    await until(() => relay.hellos.length === 2);
    expect(relay.hellos).toEqual(["token 1", "token 2"]);
  });

  it("is asked for again where it could not be had, in band and before a connection", async () => {
    let asked = 0;
    relay.tokenExpiresUs = BigInt(Date.now() + 2000) * 1000n;
    const connection = dial({
      token: () => {
        asked += 1;
        if (asked === 1 || asked === 3) throw new Error(`away ${asked}`);
        return `token ${asked}`;
      },
    });
    const errors: string[] = [];
    connection.on("error", ({ error }) => errors.push(error.message));
    const waits: string[] = [];
    connection.on("status", (status) => {
      if (status.state === "waiting") waits.push(status.error.message);
    });
    await until(() => relay.hellos.length === 2);
    expect(relay.hellos).toEqual(["token 2", "token 4"]);
    expect(waits).toEqual([expect.stringMatching(/no token to be had: away 1/)]);
    expect(errors).toEqual(["away 3"]);
    expect(connection.stats?.connections).toBe(1);
    // Its new end is told.
    await until(() => connection.status.state === "open" && connection.status.tokenExpiresUs === 0);
  });

  it("that is refused in band is replaced on a connection of its own", async () => {
    let issued = 0;
    relay.tokenExpiresUs = BigInt(Date.now() + 300) * 1000n;
    relay.judge = (token) => (token === "token 2" ? 4401 : 0);
    const connection = dial({ token: () => `token ${++issued}` });
    await until(() => relay.hellos.length >= 3 && connection.status.state === "open");
    expect(relay.hellos.slice(0, 3)).toEqual(["token 1", "token 2", "token 3"]);
    expect(connection.stats?.connections).toBe(2);
  });

  it("that comes after the connection was closed opens none", async () => {
    let give: (token: string) => void = () => {};
    const connection = dial({
      token: () =>
        new Promise<string>((resolve) => {
          give = resolve;
        }),
    });
    await until(() => connection.status.state === "connecting");
    await new Promise((resolve) => setTimeout(resolve, 0));
    connection.close();
    give("late");
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(relay.hellos).toEqual([]);
    expect(connection.status.state).toBe("closed");
  });
});
