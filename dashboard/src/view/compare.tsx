/** Several devices beside each other: a chart a metric, a line a device. */

import { useSignal } from "@preact/signals";
import { find, fleet } from "../fleet";
import { type ChartsRoute, deviceHref, FLEET, go, href, MOST_COMPARED } from "../route";
import { Charts, useCharts } from "./charts";
import { StateDot } from "./parts";

export function CompareView({ here }: { here: ChartsRoute }) {
  const { feed, sight } = useCharts(here);
  const { devices } = here;
  const name = useSignal("");
  const add = () => {
    const found = find(name.value.trim());
    if (!found || devices.includes(found.name)) return;
    name.value = "";
    go({ ...here, devices: [...devices, found.name] });
  };
  return (
    <>
      <div class="device-head">
        <a class="back" href={href(FLEET)}>
          ← Fleet
        </a>
        <h1>Compare</h1>
      </div>
      <ul class="compared" aria-label="Compared devices">
        {devices.map((device, i) => (
          <li key={device}>
            <i class={`ink ink-${i}`} aria-hidden="true" />
            <a href={deviceHref(device)}>{device}</a>
            <StateDot online={find(device)?.online ?? false} />
            <button
              type="button"
              aria-label={`Leave ${device} out`}
              disabled={devices.length === 1}
              onClick={() => go({ ...here, devices: devices.filter((each) => each !== device) })}
            >
              ×
            </button>
          </li>
        ))}
        {devices.length < MOST_COMPARED && (
          <li class="add">
            <form
              onSubmit={(event) => {
                event.preventDefault();
                add();
              }}
            >
              <input
                aria-label="Add a device"
                placeholder="Add a device"
                list="devices"
                value={name.value}
                onInput={(event) => {
                  name.value = event.currentTarget.value;
                }}
                onChange={add}
              />
              <datalist id="devices">
                {matching(name.value, devices).map((each) => (
                  <option key={each} value={each} />
                ))}
              </datalist>
            </form>
          </li>
        )}
      </ul>
      <Charts here={here} feed={feed} sight={sight} />
    </>
  );
}

/** A few names that begin or go on with what is typed. */
function matching(text: string, without: readonly string[]): string[] {
  const sought = text.toLowerCase();
  const found: string[] = [];
  for (const { name } of fleet.value) {
    if (without.includes(name) || !name.toLowerCase().includes(sought)) continue;
    found.push(name);
    if (found.length === 20) break;
  }
  return found.sort();
}
