/** What is out of the ordinary with the connection: what happened, what it means, what to do. The gravest alone is shown. */

import { useSignal } from "@preact/signals";
import { beat, fleet } from "../fleet";
import { count, span } from "../format";
import { giveToken, lagging, now, offline, retryNow, status, tokenWanted, trouble } from "../link";
import { Dialog } from "./dialog";

/** A token's end is said so long before it, milliseconds. */
const TOKEN_SOON_MS = 5 * 60_000;

export function Notice({ renew }: { renew: () => void }) {
  void beat.value;
  const link = status.value;
  const shown = fleet.value.length > 0;
  if (link.state === "closed" && tokenWanted.value === null) {
    return (
      <Bar tone="bad" action="Connect again" act={retryNow}>
        <b>The connection ended.</b> {link.error ? sentence(link.error.message) : ""} Another try would end
        the same way, so none is made by itself.
      </Bar>
    );
  }
  if (link.state === "waiting" || (link.state === "connecting" && link.attempt > 0)) {
    return (
      <Bar tone="warn" action="Try now" act={retryNow}>
        <b>{offline.value ? "This machine is off line." : "No connection to the relay."}</b>{" "}
        {link.state === "waiting" && !offline.value ? `${sentence(link.error.message)} ` : ""}Attempt{" "}
        {count(link.attempt)}
        {shown ? "; what is shown is from before. Nothing is missed: it goes on where it left off." : "."}
      </Bar>
    );
  }
  if (
    link.state === "open" &&
    link.tokenExpiresUs > 0 &&
    link.tokenExpiresUs / 1000 - now() < TOKEN_SOON_MS
  ) {
    return (
      <Bar tone="warn" action="Give a new one" act={renew}>
        <b>Your token ends in {span(link.tokenExpiresUs / 1000 - now())}.</b> The page stops then, unless it
        gets another.
      </Bar>
    );
  }
  if (trouble.value) {
    const { kind, message } = trouble.value;
    return (
      <Bar
        tone={kind === "unavailable" ? "warn" : ""}
        action="Dismiss"
        act={() => {
          trouble.value = null;
        }}
      >
        {kind === "unavailable" && <b>The relay cannot read Kafka at present. </b>}
        {sentence(message)}
        {kind === "unavailable" && " Agents keep what they sample until it is back; nothing is lost."}
      </Bar>
    );
  }
  if (lagging.value) {
    return (
      <Bar tone="warn">
        <b>This page does not keep up,</b> so the relay sends it less often: {lagging.value}. Nothing is lost,
        and all of it is drawn once there is time; a shorter range or fewer charts help.
      </Bar>
    );
  }
  return null;
}

function Bar(props: { tone: string; action?: string; act?: () => void; children: preact.ComponentChildren }) {
  return (
    <div class={`notice ${props.tone}`} role={props.tone === "bad" ? "alert" : "status"}>
      <p>{props.children}</p>
      {props.action && (
        <button type="button" onClick={props.act}>
          {props.action}
        </button>
      )}
    </div>
  );
}

export function TokenPrompt({ why, close }: { why: string; close?: () => void }) {
  const token = useSignal("");
  // The first half names all that may be wrong with a token, the second what is.
  const expired = /: .*expired/i.test(why);
  return (
    <Dialog
      name="token"
      title={close || expired ? "A new token, please" : "This relay asks for a token"}
      action="Connect"
      close={close}
      act={() => {
        if (!token.value.trim()) return;
        giveToken(token.value);
        close?.();
      }}
    >
      <p>
        {why ? `${sentence(why)} ` : ""}Whoever runs the relay issues tokens (JWT), for a try{" "}
        <code>headwater-relay token</code> makes one. It stays in this tab and is forgotten with it
        {expired ? "; the charts go on where they are" : ""}.
      </p>
      <label>
        Token
        <input
          type="password"
          name="token"
          autocomplete="off"
          spellcheck={false}
          required
          value={token.value}
          onInput={(event) => {
            token.value = event.currentTarget.value;
          }}
        />
      </label>
    </Dialog>
  );
}

/** A message as a sentence: capital letter, full stop. */
function sentence(text: string): string {
  const start = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(start) ? start : `${start}.`;
}
