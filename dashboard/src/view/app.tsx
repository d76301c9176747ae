/** The page's frame: head, notices, the view the address names, the inspector. */

import { useSignal } from "@preact/signals";
import { fleet } from "../fleet";
import { count, latency } from "../format";
import { giveToken, retryNow, stats, status, tokenWanted, trouble } from "../link";
import { href, route } from "../route";
import { theme, toggleTheme } from "../theme";
import { DeviceView } from "./device";
import { FleetView } from "./fleet";
import { Inspector } from "./inspector";

export function App() {
  const inspect = useSignal(localStorage.getItem("headwater.inspect") === "1");
  const here = route.value;
  document.title = here.page === "device" ? `${here.device} · Headwater` : "Headwater";
  return (
    <>
      <header class="top">
        <a class="brand" href={href({ page: "fleet" })}>
          <Mark />
          <span>Headwater</span>
        </a>
        <div class="right">
          <button
            type="button"
            class={`chip ${status.value.state}`}
            aria-expanded={inspect.value}
            aria-controls="inspector"
            title="What the connection does"
            onClick={() => {
              inspect.value = !inspect.value;
              localStorage.setItem("headwater.inspect", inspect.value ? "1" : "0");
            }}
          >
            <i aria-hidden="true" />
            <span role="status">{chipText()}</span>
          </button>
          <button
            type="button"
            class="icon"
            onClick={toggleTheme}
            aria-label={theme.value === "dark" ? "Light colours" : "Dark colours"}
          >
            <ThemeIcon />
          </button>
        </div>
      </header>
      {inspect.value && <Inspector />}
      <Notice />
      <main class={stale() ? "stale" : ""}>
        {here.page === "device" ? (
          <DeviceView key={`${here.device}|${here.minutes}`} device={here.device} minutes={here.minutes} />
        ) : (
          <FleetView />
        )}
      </main>
      {tokenWanted.value !== null && <TokenPrompt why={tokenWanted.value} />}
    </>
  );
}

function stale(): boolean {
  return status.value.state !== "open" && fleet.value.length > 0;
}

function chipText(): string {
  const now = status.value;
  switch (now.state) {
    case "open": {
      const trip = stats.value?.roundTripMs;
      return trip == null ? "Live" : `Live · ${latency(trip)}`;
    }
    case "connecting":
      return "Connecting";
    case "waiting":
      return "Reconnecting";
    case "closed":
      return "Not connected";
  }
}

function Notice() {
  const now = status.value;
  if (now.state === "waiting" || (now.state === "connecting" && now.attempt > 0)) {
    return (
      <div class="notice warn" role="status">
        <p>
          <b>No connection to the relay.</b>{" "}
          {now.state === "waiting" ? `${sentence(now.error.message)} ` : ""}Attempt {count(now.attempt)}; what
          is shown is from before. Nothing is missed: it goes on where it left off.
        </p>
        <button type="button" onClick={retryNow}>
          Try now
        </button>
      </div>
    );
  }
  if (now.state === "closed" && tokenWanted.value === null) {
    return (
      <div class="notice bad" role="alert">
        <p>
          <b>The connection ended.</b> {now.error ? sentence(now.error.message) : ""}
        </p>
        <button type="button" onClick={retryNow}>
          Connect again
        </button>
      </div>
    );
  }
  if (trouble.value) {
    return (
      <div class="notice" role="status">
        <p>{sentence(trouble.value)}</p>
        <button
          type="button"
          onClick={() => {
            trouble.value = null;
          }}
        >
          Dismiss
        </button>
      </div>
    );
  }
  return null;
}

function TokenPrompt({ why }: { why: string }) {
  const token = useSignal("");
  return (
    <dialog
      class="token"
      ref={(dialog) => {
        if (dialog && !dialog.open) dialog.showModal();
      }}
      onCancel={(event) => event.preventDefault()}
    >
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (token.value.trim()) giveToken(token.value);
        }}
      >
        <h2>This relay asks for a token</h2>
        <p>
          {sentence(why)} Whoever runs the relay issues tokens (JWT). This one stays in this tab and is
          forgotten with it.
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
        <button type="submit">Connect</button>
      </form>
    </dialog>
  );
}

/** A message as a sentence: capital letter, full stop. */
function sentence(text: string): string {
  const start = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(start) ? start : `${start}.`;
}

function Mark() {
  return (
    <svg viewBox="0 0 32 32" aria-hidden="true">
      <path d="M4 6c8 0 8 10 13 10h11" />
      <path d="M4 16h13" />
      <path d="M4 26c8 0 8-10 13-10" />
    </svg>
  );
}

function ThemeIcon() {
  return (
    <svg viewBox="0 0 24 24" aria-hidden="true">
      <circle cx="12" cy="12" r="7.5" />
      <path class="half" d="M12 4.5a7.5 7.5 0 0 1 0 15z" />
    </svg>
  );
}
