/** Live sensor readings from a Headwater relay. See the README for a dashboard in twenty lines. */

export type { BackoffOptions } from "./backoff.js";
export { type Batch, type Column, decodeBatch, type Loss } from "./batch.js";
export type { CommandOptions, Reply } from "./commands.js";
export { type Connection, connect } from "./connection.js";
export type { Refusal } from "./control.js";
export type { Cursor } from "./cursor.js";
export { CommandError, type CommandFailure, ConnectionError, RefusedError, type Remedy } from "./errors.js";
export { matcher } from "./glob.js";
export type { Quantiles } from "./latency.js";
export type {
  ConnectOptions,
  Events,
  Stats,
  Status,
  WebSocketConstructor,
  WebSocketLike,
} from "./options.js";
export type { AgentInfo, DevicePresence, Waiting } from "./presence.js";
export { DecodeError } from "./reader.js";
export type { Start } from "./request.js";
export type { SeriesColumn, SeriesLoss } from "./series.js";
export type {
  Conflation,
  Gap,
  Handler,
  SubscribeOptions,
  Subscription,
  SubscriptionEvent,
} from "./subscription.js";
export type { TokenSource } from "./token.js";
export type { Amount } from "./window.js";
