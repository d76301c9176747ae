/** Commands that were sent from this page, and what became of each. */

import { CommandError, type CommandFailure } from "@headwater/client";
import { signal } from "@preact/signals";
import { connected } from "./link";

/** A command that an agent knows, and what it does, for whom is about to send it. */
export interface Known {
  name: string;
  title: string;
  /** What will happen. */
  does: string;
  /** It changes something, or interrupts. */
  changes: boolean;
}

export const COMMANDS: Known[] = [
  {
    name: "ping",
    title: "Ping",
    does: "The agent answers. Nothing changes; it shows that the whole way there and back works.",
    changes: false,
  },
  {
    name: "status",
    title: "Status",
    does: "The agent tells its state: sources, journal, link, figures. Nothing changes.",
    changes: false,
  },
  {
    name: "flush",
    title: "Flush",
    does: "The agent closes the batch that it is filling, sends it, and answers once Kafka has it. Nothing else changes.",
    changes: false,
  },
  {
    name: "set",
    title: "Set an interval",
    does: "The agent works by the new value from now on, until it is changed again or its settings are reset; restarts keep it. Its journal and connection stay.",
    changes: true,
  },
  {
    name: "restart",
    title: "Restart",
    does: "The agent starts anew in its own place. It is off line for a moment; what it holds in its journal is kept, and sampling pauses until it is back.",
    changes: true,
  },
];

/** How long a device may take: one that is away may come back meanwhile. */
export const EXPIRES = [10, 30, 120, 600];

export interface Sent {
  id: number;
  device: string;
  name: string;
  arguments: readonly string[];
  /** Milliseconds, this machine's clock. */
  at: number;
  expiresInMs: number;
  /** "sent" until it is known. */
  outcome: "sent" | "ok" | "failed" | CommandFailure;
  output: string;
  /** From sending to the reply, milliseconds. */
  tookMs: number;
}

/** The newest first. */
export const sent = signal<readonly Sent[]>([]);
const MOST = 50;
let last = 0;

export async function send(
  device: string,
  name: string,
  args: readonly string[],
  expiresInMs: number,
): Promise<void> {
  last += 1;
  const id = last;
  const began = performance.now();
  const command: Sent = {
    id,
    device,
    name,
    arguments: args,
    at: Date.now(),
    expiresInMs,
    outcome: "sent",
    output: "",
    tookMs: 0,
  };
  sent.value = [command, ...sent.value].slice(0, MOST);
  const became = (outcome: Sent["outcome"], output: string) => {
    const tookMs = performance.now() - began;
    sent.value = sent.value.map((each) => (each.id === id ? { ...each, outcome, output, tookMs } : each));
  };
  try {
    const reply = await connected().command({ device, name, arguments: args, expiresInMs });
    became(reply.status, reply.output);
  } catch (error) {
    if (error instanceof CommandError) became(error.reason, error.message);
    else became("closed", error instanceof Error ? error.message : String(error));
  }
}

/** What became of it, for a person. */
export function outcomeText(outcome: Sent["outcome"]): { text: string; tone: "ok" | "bad" | "warn" | "" } {
  switch (outcome) {
    case "sent":
      return { text: "waiting for the reply", tone: "" };
    case "ok":
      return { text: "done", tone: "ok" };
    case "failed":
      return { text: "the agent tried and failed", tone: "bad" };
    case "expired":
      return { text: "expired: nothing was done", tone: "warn" };
    case "no reply":
      return { text: "no reply: whether it was carried out is not known", tone: "warn" };
    case "closed":
      return { text: "the connection was closed: whether it was carried out is not known", tone: "warn" };
    case "unknown device":
      return { text: "the relay knows no such device", tone: "bad" };
    case "unknown command":
      return { text: "this agent does not know the command", tone: "bad" };
    case "forbidden":
      return { text: "your token does not allow it", tone: "bad" };
    default:
      return { text: "refused: nothing was done", tone: "bad" };
  }
}
