/** The subscriptions that are open, and what each has brought: for the inspector. */

import type { Connection, Handler, SubscribeOptions, Subscription } from "@headwater/client";

export interface Watched {
  mode: string;
  /** Which devices, in words. */
  what: string;
  frames: number;
  /** Batches that went into frames of conflating modes. */
  merged: number;
  /** The widest bucket of late, milliseconds; 0: it has none. */
  bucket: number;
  /** What was asked for. */
  asked: number;
  caughtUp: boolean;
}

export const watched = new Map<Subscription, Watched>();

/** As `connection.subscribe`, with its figures kept. */
export function subscribe(connection: Connection, options: SubscribeOptions, handler: Handler): Subscription {
  const { mode = "all", devices = [], intervalMs = 0 } = options;
  const of =
    devices.length === 0 ? "all devices" : devices.length === 1 ? devices[0] : `${devices.length} devices`;
  const figures: Watched = {
    mode,
    what: of,
    frames: 0,
    merged: 0,
    bucket: 0,
    asked: mode === "series" ? intervalMs : 0,
    caughtUp: false,
  };
  const subscription = connection.subscribe(options, (event) => {
    if (event.type === "caught-up") figures.caughtUp = true;
    else if (event.type !== "gap") figures.frames += 1;
    if (event.type === "latest" || event.type === "series") figures.merged += event.merged;
    if (event.type === "series") for (const { widthUs } of event.columns) figures.bucket = widthUs / 1000;
    return handler(event);
  });
  watched.set(subscription, figures);
  const close = subscription.close.bind(subscription);
  subscription.close = () => {
    watched.delete(subscription);
    close();
  };
  return subscription;
}
