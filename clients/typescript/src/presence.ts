/** Which devices there are, and how they are. live.proto and link.proto are the contract. */

import { BOOL, DOUBLE, INT, many, message, NUMBER64, one, TEXT, UINT } from "./message.js";

/** What an agent says of itself; empty where it did not. */
export interface AgentInfo {
  version: string;
  /** The target triple it was built for. */
  target: string;
  bootId: string;
  /** Of the configuration in force, hexadecimal. */
  configHash: string;
  hostname: string;
  /** Drawn at each start of the agent; 0n: not told. */
  process: bigint;
}

const readAgent = message<AgentInfo>(
  () => ({ version: "", target: "", bootId: "", configHash: "", hostname: "", process: 0n }),
  {
    1: ["version", TEXT],
    2: ["target", TEXT],
    3: ["bootId", TEXT],
    4: ["configHash", TEXT],
    5: ["hostname", TEXT],
    6: ["process", NUMBER64],
  },
);

/** What an agent holds that is not acknowledged. */
export interface Waiting {
  batches: number;
  readings: number;
  bytes: number;
  /** Time of the oldest waiting reading, microseconds since the Unix epoch; 0: nothing waits. */
  oldestUs: number;
}

const readWaiting = message<Waiting>(() => ({ batches: 0, readings: 0, bytes: 0, oldestUs: 0 }), {
  1: ["batches", UINT],
  2: ["readings", UINT],
  3: ["bytes", UINT],
  4: ["oldestUs", INT],
});

/** One device as the relay knows it. Times are microseconds since the Unix epoch, 0 where not known. */
export interface DevicePresence {
  device: string;
  online: boolean;
  /** Since when it is online, or offline. */
  sinceUs: number;
  lastSeenUs: number;
  agent?: AgentInfo;
  waiting?: Waiting;
  /** Readings that its agent had to give up. */
  lostReadings: number;
  /** What arrived lately, as the gateway saw it. */
  readingsPerS: number;
  batchesPerS: number;
  /** Newest arrival minus newest reading's time: how far behind its data is, microseconds. */
  lagUs: number;
  /** Gone for good. */
  removed: boolean;
}

const readDevice = message<DevicePresence>(
  () => ({
    device: "",
    online: false,
    sinceUs: 0,
    lastSeenUs: 0,
    lostReadings: 0,
    readingsPerS: 0,
    batchesPerS: 0,
    lagUs: 0,
    removed: false,
  }),
  {
    1: ["device", TEXT],
    2: ["online", BOOL],
    3: ["sinceUs", INT],
    4: ["lastSeenUs", INT],
    5: ["agent", one(readAgent)],
    6: ["waiting", one(readWaiting)],
    7: ["lostReadings", UINT],
    8: ["readingsPerS", DOUBLE],
    9: ["batchesPerS", DOUBLE],
    10: ["lagUs", INT],
    11: ["removed", BOOL],
  },
);

export interface PresenceFrame {
  case: "presence";
  id: number;
  devices: DevicePresence[];
  snapshot: boolean;
  complete: boolean;
}

export const readPresence = message<PresenceFrame>(
  () => ({ case: "presence", id: 0, devices: [], snapshot: false, complete: false }),
  {
    1: ["id", UINT],
    2: ["devices", many(readDevice)],
    3: ["snapshot", BOOL],
    4: ["complete", BOOL],
  },
);
