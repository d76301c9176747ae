/** Live sensor readings from a Headwater relay. See the README for a dashboard in twenty lines. */

export { type Batch, type Column, decodeBatch, type Loss } from "./batch.js";
export { type Connection, connect } from "./connection.js";
export type { Cursor } from "./cursor.js";
export { ConnectionError, RefusedError } from "./errors.js";
export type { AgentInfo, Waiting } from "./gen/headwater/v1/link_pb.js";
export type { DevicePresence } from "./gen/headwater/v1/live_pb.js";
export { matcher } from "./glob.js";
export type {
  ConnectOptions,
  Events,
  Stats,
  Status,
  WebSocketConstructor,
  WebSocketLike,
} from "./options.js";
export { DecodeError } from "./reader.js";
export type { Gap, Handler, SubscribeOptions, Subscription, SubscriptionEvent } from "./subscription.js";
export type { Amount } from "./window.js";
