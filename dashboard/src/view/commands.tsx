/** What can be asked of a device, with a question before it is done, and what became of it. Only for whose token allows it. */

import { useSignal } from "@preact/signals";
import { COMMANDS, EXPIRES, type Known, outcomeText, type Sent, send, sent } from "../command";
import { find } from "../fleet";
import { latency, span } from "../format";
import { status } from "../link";
import { Dialog } from "./dialog";

export function Asks({ device }: { device: string }) {
  const asked = useSignal<Known | null>(null);
  const link = status.value;
  if (link.state !== "open" || !link.mayCommand) return null;
  return (
    <fieldset class="asks" aria-label={`Commands to ${device}`}>
      {COMMANDS.map((command) => (
        <button
          key={command.name}
          type="button"
          onClick={() => {
            asked.value = command;
          }}
        >
          {command.title}
        </button>
      ))}
      {asked.value && (
        <Ask
          command={asked.value}
          device={device}
          close={() => {
            asked.value = null;
          }}
        />
      )}
    </fieldset>
  );
}

export function Replies({ device }: { device: string }) {
  const mine = sent.value.filter((each) => each.device === device);
  if (mine.length === 0) return null;
  return (
    <ol class="replies" aria-live="polite" aria-label="Commands that were sent">
      {mine.slice(0, SHOWN).map((each) => (
        <Outcome key={each.id} command={each} />
      ))}
    </ol>
  );
}

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium", hourCycle: "h23" });

function Outcome({ command }: { command: Sent }) {
  const { text, tone } = outcomeText(command.outcome);
  const output = pretty(command.output);
  return (
    <li class={tone} data-command={command.name} data-outcome={command.outcome}>
      <p>
        <b>{[command.name, ...command.arguments].join(" ")}</b>
        <span class="became">{text}</span>
        <small>
          {clock.format(command.at)}
          {command.outcome !== "sent" && `, ${latency(command.tookMs)}`}
        </small>
      </p>
      {output &&
        (output.length > 160 || output.includes("\n") ? (
          <details>
            <summary>What it said</summary>
            <pre>{output}</pre>
          </details>
        ) : (
          <p class="output">{output}</p>
        ))}
    </li>
  );
}

/** The newest are enough: all are in Kafka. */
const SHOWN = 4;
/** Offered; any other may be typed. */
const KEYS = ["batch.age", "source.system.interval", "source.simulated.interval", "health.interval"];

function Ask({ command, device, close }: { command: Known; device: string; close: () => void }) {
  const key = useSignal(KEYS[0]);
  const value = useSignal("5s");
  const expires = useSignal(30);
  const online = find(device)?.online ?? false;
  const sets = command.name === "set";
  return (
    <Dialog
      title={`${command.title}: ${device}?`}
      close={close}
      action={sets ? "Set it" : command.name === "restart" ? "Restart it" : "Send"}
      danger={command.changes}
      act={() => {
        const args = sets ? [key.value.trim(), value.value.trim()] : [];
        void send(device, command.name, args, expires.value * 1000);
        close();
      }}
    >
      <p>{command.does}</p>
      {sets && (
        <div class="pair">
          <label>
            Which setting
            <input
              list="keys"
              required
              value={key.value}
              onInput={(event) => {
                key.value = event.currentTarget.value;
              }}
            />
            <datalist id="keys">
              {KEYS.map((each) => (
                <option key={each} value={each} />
              ))}
            </datalist>
          </label>
          <label>
            New value
            <input
              required
              value={value.value}
              onInput={(event) => {
                value.value = event.currentTarget.value;
              }}
            />
          </label>
        </div>
      )}
      <label>
        Not to be carried out later than
        <select
          value={expires.value}
          onChange={(event) => {
            expires.value = Number(event.currentTarget.value);
          }}
        >
          {EXPIRES.map((seconds) => (
            <option key={seconds} value={seconds}>
              {span(seconds * 1000)} from now
            </option>
          ))}
        </select>
      </label>
      {!online && (
        <p class="warn">
          <b>{device} is off line.</b> It is carried out if it comes back in that time, and never after.
        </p>
      )}
      <p class="small">It is recorded in Kafka with your name: {who()}.</p>
    </Dialog>
  );
}

function who(): string {
  const link = status.value;
  return (link.state === "open" && link.subject) || "anyone (no keys set)";
}

/** JSON with line breaks; all else as it stands. */
function pretty(output: string): string {
  if (!/^[[{]/.test(output)) return output;
  try {
    return JSON.stringify(JSON.parse(output), null, 2);
  } catch {
    return output;
  }
}
