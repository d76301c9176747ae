/**
 * A relay in one file, for tests: one log of batches in memory, modes ALL and PRESENCE, the window enforced as live.proto
 * says. It throws at a client that acknowledges what was never sent, or lets the test break the line at any moment.
 */

import type { AddressInfo } from "node:net";
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { type WebSocket, WebSocketServer } from "ws";
import { matcher } from "../src/glob.js";
import { type Batch, BatchSchema } from "./gen/headwater/v1/batch_pb.js";
import type { Command } from "./gen/headwater/v1/command_pb.js";
import {
  ClientFrameSchema,
  Mode,
  ServerFrameSchema,
  type Start,
  type Subscribe,
} from "./gen/headwater/v1/live_pb.js";

type Outgoing = NonNullable<MessageInitShape<typeof ServerFrameSchema>["frame"]>;

interface Line {
  socket: WebSocket;
  sent: { frames: number; bytes: number };
  acked: { frames: number; bytes: number };
  window: { frames: number; bytes: number };
  subscriptions: Map<number, { request: Subscribe; filter: number; next: number[]; caughtUp: boolean }>;
}

export class Relay {
  readonly log: Uint8Array[][] = [[], []];
  readonly devices: string[][] = [[], []];
  readonly requests: Subscribe[] = [];
  readonly hellos: string[] = [];
  acks: { frames: number; bytes: number }[] = [];
  faults: string[] = [];
  most = { frames: 0, bytes: 0 };
  /** Deaf: takes everything, answers nothing. */
  deaf = false;
  /** Given a token, the close code it gets; 0: welcome. */
  judge: (token: string) => number = () => 0;
  tokenExpiresUs = 0n;
  mayCommand = true;
  /** Says of no subscription that it has caught up. */
  behind = false;
  readonly commands: Command[] = [];
  /** What a command is answered by; null: not at all. */
  answer: (command: Command) => Outgoing | null = () => null;
  /** The last window that a client asked for. */
  window = { frames: 0, bytes: 0 };
  private readonly server: WebSocketServer;
  private lines = new Set<Line>();

  private constructor(server: WebSocketServer) {
    this.server = server;
    server.on("connection", (socket) => this.accept(socket));
  }

  static async start(port = 0): Promise<Relay> {
    const server = new WebSocketServer({ host: "127.0.0.1", port, perMessageDeflate: true });
    await new Promise((resolve) => server.once("listening", resolve));
    return new Relay(server);
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}/v1/live`;
  }

  /** Appends a batch to a partition's log. */
  append(partition: number, batch: MessageInitShape<typeof BatchSchema>): void {
    const message: Batch = create(BatchSchema, batch);
    this.log[partition].push(toBinary(BatchSchema, message));
    this.devices[partition].push(message.device);
    for (const line of this.lines) this.pump(line);
  }

  /** Breaks every line without a word, or closes them with a code. */
  break(code?: number): void {
    for (const line of this.lines) {
      if (code === undefined) line.socket.terminate();
      else line.socket.close(code);
    }
  }

  send(frame: Outgoing): void {
    for (const line of this.lines) this.write(line, frame);
  }

  /** A counted frame to every line, whatever its window. */
  tell(frame: Outgoing): void {
    for (const line of this.lines) this.count(line, frame);
  }

  /** Nobody is connected. */
  get idle(): boolean {
    return this.lines.size === 0;
  }

  async stop(): Promise<void> {
    for (const line of this.lines) line.socket.terminate();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private write(line: Line, frame: Outgoing): number {
    const bytes = toBinary(ServerFrameSchema, create(ServerFrameSchema, { frame }));
    line.socket.send(bytes);
    return bytes.length;
  }

  private accept(socket: WebSocket): void {
    const line: Line = {
      socket,
      sent: { frames: 0, bytes: 0 },
      acked: { frames: 0, bytes: 0 },
      window: { frames: 0, bytes: 0 },
      subscriptions: new Map(),
    };
    socket.on("close", () => this.lines.delete(line));
    socket.on("message", (data: Buffer) => {
      if (this.deaf) return;
      const { frame } = fromBinary(ClientFrameSchema, new Uint8Array(data));
      switch (frame.case) {
        case "hello": {
          this.hellos.push(frame.value.token);
          const code = this.judge(frame.value.token);
          if (code !== 0) {
            socket.close(code, "refused by the test");
            return;
          }
          this.lines.add(line);
          const { frames, bytes } = frame.value.window!;
          line.window = { frames, bytes: Number(bytes) };
          this.write(line, {
            case: "welcome",
            value: {
              server: "test",
              window: { frames, bytes },
              partitions: 2,
              timeUs: BigInt(Date.now()) * 1000n,
              tokenExpiresUs: this.tokenExpiresUs,
              mayCommand: this.mayCommand,
            },
          });
          break;
        }
        case "subscribe":
          this.subscribe(line, frame.value);
          break;
        case "unsubscribe":
          line.subscriptions.delete(frame.value.id);
          break;
        case "ack": {
          const ack = { frames: Number(frame.value.framesTotal), bytes: Number(frame.value.bytesTotal) };
          if (ack.frames > line.sent.frames || ack.bytes > line.sent.bytes) {
            this.faults.push(`ack of ${JSON.stringify(ack)} where ${JSON.stringify(line.sent)} were sent`);
          }
          if (ack.frames === line.sent.frames && ack.bytes !== line.sent.bytes)
            this.faults.push("bytes miscounted");
          this.acks.push(ack);
          line.acked = ack;
          if (frame.value.window) {
            line.window = { frames: frame.value.window.frames, bytes: Number(frame.value.window.bytes) };
            this.window = line.window;
          }
          this.pump(line);
          break;
        }
        case "ping":
          this.write(line, {
            case: "pong",
            value: { nonce: frame.value.nonce, timeUs: BigInt(Date.now()) * 1000n, wireBytes: 77n },
          });
          break;
        case "command": {
          this.commands.push(frame.value);
          const answer = this.answer(frame.value);
          if (answer) this.write(line, answer);
          break;
        }
        case "token":
          this.hellos.push(frame.value.token);
          if (this.judge(frame.value.token) !== 0) socket.close(4401, "refused by the test");
          else this.write(line, { case: "tokenAccepted", value: { tokenExpiresUs: 0n } });
          break;
      }
    });
  }

  private subscribe(line: Line, request: Subscribe): void {
    this.requests.push(request);
    const next = this.log.map((log, partition) => startAt(request.start, partition, log.length));
    const others = [...line.subscriptions.values()].filter(({ request }) => request.mode === Mode.ALL);
    const filter = request.mode === Mode.ALL ? request.metrics.length + others.length * 1000 : 0;
    line.subscriptions.set(request.id, { request, filter, next, caughtUp: false });
    const positions = next.map((offset, partition) => ({ partition, offset: BigInt(offset) }));
    this.write(line, { case: "subscribed", value: { id: request.id, filter, cursor: { positions } } });
    if (request.mode === Mode.PRESENCE) {
      this.count(line, {
        case: "presence",
        value: {
          id: request.id,
          devices: [{ device: "a", online: true }],
          snapshot: true,
          snapshotComplete: true,
        },
      });
      return;
    }
    this.pump(line);
  }

  private count(line: Line, frame: Outgoing): void {
    line.sent.bytes += this.write(line, frame);
    line.sent.frames += 1;
    this.most.frames = Math.max(this.most.frames, line.sent.frames - line.acked.frames);
    this.most.bytes = Math.max(this.most.bytes, line.sent.bytes - line.acked.bytes);
  }

  private pump(line: Line): void {
    for (const [id, subscription] of line.subscriptions) {
      if (subscription.request.mode !== Mode.ALL) continue;
      const matches = matcher(subscription.request.devices);
      for (const [partition, log] of this.log.entries()) {
        while (subscription.next[partition] < log.length) {
          const open =
            line.sent.frames - line.acked.frames < line.window.frames &&
            line.sent.bytes - line.acked.bytes < line.window.bytes;
          if (!open) return;
          const offset = subscription.next[partition]++;
          if (!matches(this.devices[partition][offset])) continue;
          this.count(line, {
            case: "data",
            value: {
              filter: subscription.filter,
              partition,
              offset: BigInt(offset),
              arrivalUs: BigInt(Date.now()) * 1000n,
              batch: log[offset],
            },
          });
        }
      }
      if (!subscription.caughtUp && !this.behind) {
        subscription.caughtUp = true;
        const positions = subscription.next.map((offset, partition) => ({
          partition,
          offset: BigInt(offset),
        }));
        this.write(line, { case: "caughtUp", value: { id, cursor: { positions } } });
      }
    }
  }
}

function startAt(start: Start | undefined, partition: number, end: number): number {
  switch (start?.at.case) {
    case "cursor":
      return Number(
        start.at.value.positions.find((position) => position.partition === partition)?.offset ?? end,
      );
    case "timeUs":
      return 0;
    default:
      return end;
  }
}
