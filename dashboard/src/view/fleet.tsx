/** All devices: how they are, what they send, what waits behind them. The rows in sight are all there are in the document. */

import { useSignal, useSignalEffect } from "@preact/signals";
import type { VNode } from "preact";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { agents, cuts } from "../demo";
import { backlogAge, type Device, fleet, known } from "../fleet";
import { count } from "../format";
import { now } from "../link";
import {
  deviceHref,
  FLEET,
  type FleetRoute,
  go,
  href,
  MOST_COMPARED,
  type Order,
  SHOWS,
  USUAL_MINUTES,
} from "../route";
import { select } from "../selection";
import { CutStory } from "./link-switch";
import { Row, type RowProps, rowId } from "./row";
import { Empty, Waiting } from "./states";
import { Totals } from "./totals";
import { useVisible } from "./visible";

/** Rows keep their places for so long though figures change: a row that one reaches for should not run away. */
const STAY_MS = 2000;

/** Elements of rows that are kept. */
const MOST_MADE = 500;

const COLUMNS: { order: Order; title: string; down: boolean; class: string }[] = [
  { order: "name", title: "Device", down: false, class: "name" },
  { order: "state", title: "State", down: false, class: "state" },
  { order: "seen", title: "Last seen", down: true, class: "seen" },
  { order: "rate", title: "Readings/s", down: true, class: "rate" },
  { order: "waiting", title: "Backlog", down: true, class: "waiting" },
  { order: "lost", title: "Lost", down: true, class: "lost" },
  { order: "link", title: "Link", down: true, class: "up" },
  { order: "version", title: "Version", down: false, class: "version" },
];

/** Where the table was left: the back button comes back to it. */
let left = 0;

export function FleetView({ here }: { here: FleetRoute }) {
  if (!known.value) return <Waiting />;
  if (fleet.value.length === 0) return <Empty />;
  return <Table here={here} />;
}

function Table({ here }: { here: FleetRoute }) {
  const rows = useSignal<readonly Device[]>([]);
  const active = useSignal(-1);
  const chosen = useSignal<readonly string[]>([]);
  const sorted = useRef({ at: 0, asked: here, of: 0 });
  const field = useRef<HTMLInputElement>(null);
  const made = useRef(new Map<string, { is: Omit<RowProps, "choose">; element: VNode }>());
  const table = useRef<HTMLTableElement>(null);
  const body = useRef<HTMLTableSectionElement>(null);

  const arrange = () => {
    const same = sorted.current.asked === here && sorted.current.of === fleet.peek().length;
    if (same && performance.now() - sorted.current.at < STAY_MS && rows.peek().length > 0) return;
    sorted.current = { at: performance.now(), asked: here, of: fleet.peek().length };
    const time = now();
    const late = (device: Device) => backlogAge(device, time) > 0;
    rows.value = select(fleet.peek(), here, late, same ? rows.peek() : undefined);
  };
  useSignalEffect(() => {
    void fleet.value;
    arrange();
  });
  if (sorted.current.asked !== here) arrange();

  const visible = useVisible(body, rows.value.length);
  useLayoutEffect(() => {
    if (left > 0) scrollTo(0, left);
    const keep = () => {
      left = scrollY;
    };
    addEventListener("scroll", keep, { passive: true });
    return () => removeEventListener("scroll", keep);
  }, []);

  useEffect(() => {
    const focus = (event: KeyboardEvent) => {
      if (
        event.key !== "/" ||
        event.target instanceof HTMLInputElement ||
        document.querySelector("dialog[open]")
      )
        return;
      event.preventDefault();
      field.current?.focus();
      field.current?.select();
    };
    addEventListener("keydown", focus);
    return () => removeEventListener("keydown", focus);
  }, []);

  const change = (some: Partial<FleetRoute>) => {
    active.value = -1;
    left = 0;
    go({ ...here, ...some }, { replace: true });
  };
  const sort = (order: Order, first: boolean) =>
    change({ order, down: here.order === order ? !here.down : first });
  const choose = (name: string) => {
    const has = chosen.peek().includes(name);
    chosen.value = has
      ? chosen.value.filter((each) => each !== name)
      : [...chosen.value, name].slice(0, MOST_COMPARED);
  };

  /** Moves to a row, and brings it into sight. */
  const move = (to: number) => {
    const at = Math.max(0, Math.min(rows.value.length - 1, to));
    active.value = at;
    if (!body.current) return;
    const top = body.current.getBoundingClientRect().top + at * visible.row;
    const head = table.current?.tHead?.getBoundingClientRect().height ?? 0;
    if (top < head) scrollBy(0, top - head - 8);
    else if (top + visible.row > innerHeight) scrollBy(0, top + visible.row - innerHeight + 8);
  };
  const keys = (event: KeyboardEvent) => {
    if (event.target !== table.current && event.key !== "Escape") return;
    const page = Math.max(1, Math.floor(innerHeight / visible.row) - 3);
    const name = rows.value[active.value]?.name;
    const moves: Record<string, number> = {
      ArrowDown: active.value + 1,
      ArrowUp: active.value - 1,
      PageDown: active.value + page,
      PageUp: active.value - page,
      Home: 0,
      End: rows.value.length - 1,
    };
    if (event.key in moves) move(moves[event.key]);
    else if (event.key === "Enter" && name) location.hash = deviceHref(name);
    else if (event.key === " " && name) choose(name);
    else if (event.key === "Escape") {
      if (chosen.value.length > 0) chosen.value = [];
      else active.value = -1;
    } else return;
    event.preventDefault();
  };

  const demo = agents.value !== null;
  /** The same element for the same row: what is the same is not gone over while the page scrolls. */
  const rowOf = (name: string, at: number) => {
    const is = {
      name,
      at,
      demo,
      active: active.value === at,
      chosen: chosen.value.includes(name),
      full: chosen.value.length >= MOST_COMPARED,
    };
    const was = made.current.get(name);
    if (was && Object.entries(is).every(([key, value]) => was.is[key as keyof typeof is] === value))
      return was.element;
    const element = <Row key={name} {...is} choose={choose} />;
    if (made.current.size > MOST_MADE) made.current.clear();
    made.current.set(name, { is, element });
    return element;
  };
  const stories = [...cuts.value.keys()];
  const { first, last, row } = visible;
  const all = rows.value;
  return (
    <>
      <h1 class="sr">Fleet</h1>
      <Totals all={fleet.value.length} here={here} />
      {demo && stories.length === 0 && (
        <p class="story hint">
          <b>This is the demo.</b> Cut a gateway's link and watch its backlog grow; restore it and watch it
          drain. No reading is lost.
        </p>
      )}
      {stories.map((device) => (
        <div class="told" key={device}>
          <a href={deviceHref(device)}>{device}</a>
          <CutStory device={device} />
        </div>
      ))}
      <div class="tools">
        <label class="search">
          <span class="sr">Search devices</span>
          <input
            ref={field}
            type="search"
            placeholder="Search devices   /"
            value={here.search}
            onInput={(event) => change({ search: event.currentTarget.value })}
            onKeyDown={(event) => {
              if (event.key === "Escape") {
                if (here.search) change({ search: "" });
                else event.currentTarget.blur();
              } else if (event.key === "ArrowDown" || event.key === "Enter") {
                table.current?.focus();
                move(0);
              } else return;
              event.preventDefault();
            }}
          />
        </label>
        <nav class="shows" aria-label="Which devices">
          {SHOWS.map((show) => (
            <a
              key={show}
              href={href({ ...here, show })}
              aria-current={here.show === show ? "true" : undefined}
            >
              {show}
            </a>
          ))}
        </nav>
        <p class="found" role="status">
          {all.length === fleet.value.length
            ? `${count(all.length)} devices`
            : `${count(all.length)} of ${count(fleet.value.length)}`}
        </p>
        <label class="sort">
          <span>Sort by</span>
          <select
            aria-label="Sort by"
            value={here.order}
            onChange={(event) => {
              const by = event.currentTarget.value as Order;
              sort(by, COLUMNS.find((column) => column.order === by)?.down ?? false);
            }}
          >
            {COLUMNS.map((column) => (
              <option key={column.order} value={column.order}>
                {column.title}
              </option>
            ))}
          </select>
        </label>
      </div>
      <table
        ref={table}
        class={demo ? "fleet demo" : "fleet"}
        // biome-ignore lint/a11y/noNoninteractiveElementToInteractiveRole: rows are moved among and chosen by key, which is a grid
        role="grid"
        tabIndex={0}
        aria-label="Devices: arrows move, Enter opens, Space chooses for comparing"
        aria-rowcount={all.length + 1}
        aria-multiselectable="true"
        aria-activedescendant={active.value >= first && active.value < last ? rowId(active.value) : undefined}
        onKeyDown={keys}
        onFocus={(event) => {
          if (event.target === table.current && active.value < 0) active.value = first;
        }}
      >
        <thead>
          <tr aria-rowindex={1}>
            <th class="pick" scope="col">
              <span class="sr">Compare</span>
            </th>
            {COLUMNS.map((column) => (
              <th
                key={column.order}
                class={column.class}
                scope="col"
                aria-sort={here.order === column.order ? (here.down ? "descending" : "ascending") : "none"}
              >
                <button type="button" onClick={() => sort(column.order, column.down)}>
                  {column.title}
                </button>
              </th>
            ))}
            {demo && (
              <th class="link" scope="col">
                Demo
              </th>
            )}
          </tr>
        </thead>
        <tbody ref={body} style={`--above:${first * row}px;--below:${(all.length - last) * row}px`}>
          {all.slice(first, last).map(({ name }, i) => rowOf(name, first + i))}
        </tbody>
      </table>
      {all.length === 0 && (
        <div class="none">
          <p>
            No device {here.show === "all" ? "" : `that is ${KINDS[here.show]} `}
            {here.search ? `matches “${here.search}”` : "at present"}.
          </p>
          <a href={href(FLEET)}>Show all {count(fleet.value.length)}</a>
        </div>
      )}
      {chosen.value.length > 0 && (
        <section class="chosen" aria-label="Chosen devices">
          <p>
            <b>{chosen.value.length}</b> of {MOST_COMPARED} chosen: {chosen.value.join(", ")}
          </p>
          <button
            type="button"
            onClick={() => {
              chosen.value = [];
            }}
          >
            Clear
          </button>
          <a
            class="primary"
            href={href({
              page: "compare",
              devices: [...chosen.value],
              range: { minutes: USUAL_MINUTES },
              metric: "",
            })}
          >
            Compare
          </a>
        </section>
      )}
    </>
  );
}

const KINDS = {
  online: "online",
  offline: "offline",
  backlog: "behind with a backlog",
  lost: "losing readings",
};
