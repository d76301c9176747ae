/** The page's frame: head, notices, the view the address names, the inspector. */

import { useSignal } from "@preact/signals";
import { fleet } from "../fleet";
import { latency } from "../format";
import { stats, status, tokenWanted } from "../link";
import { FLEET, href, route } from "../route";
import { theme, toggleTheme } from "../theme";
import { CompareView } from "./compare";
import { DeviceView } from "./device";
import { FleetView } from "./fleet";
import { Inspector } from "./inspector";
import { Notice, TokenPrompt } from "./notice";

export function App() {
  const inspect = useSignal(localStorage.getItem("headwater.inspect") === "1");
  const renews = useSignal(false);
  const here = route.value;
  document.title = here.page === "fleet" ? "Headwater" : `${here.devices.join(", ")} · Headwater`;
  return (
    <>
      <header class="top">
        <a class="brand" href={href(FLEET)}>
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
      <Notice
        renew={() => {
          renews.value = true;
        }}
      />
      <main class={stale() ? "stale" : ""}>
        {here.page === "fleet" && <FleetView here={here} />}
        {here.page === "device" && <DeviceView key={here.devices[0]} here={here} />}
        {here.page === "compare" && <CompareView here={here} />}
      </main>
      {tokenWanted.value !== null && <TokenPrompt why={tokenWanted.value} />}
      {renews.value && tokenWanted.value === null && (
        <TokenPrompt
          why=""
          close={() => {
            renews.value = false;
          }}
        />
      )}
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
