/** Which metrics share a chart: those of one family and one unit, up to as many as an eye can tell apart. Pure. */

export interface Named {
  metric: string;
  unit: string;
}

export interface Group<T extends Named> {
  key: string;
  /** What its metrics' names have in common; the metric itself if it is alone. */
  title: string;
  unit: string;
  members: T[];
}

const MOST = 6;

/** Groups in the order of their names, members likewise. */
export function group<T extends Named>(all: readonly T[]): Group<T>[] {
  const sorted = [...all].sort((a, b) => compare(a.metric, b.metric));
  const families = new Map<string, T[]>();
  for (const each of sorted) {
    const key = `${family(each.metric)}|${each.unit}`;
    const members = families.get(key);
    if (members) members.push(each);
    else families.set(key, [each]);
  }
  const groups: Group<T>[] = [];
  for (const [key, members] of families) {
    const parts = Math.ceil(members.length / MOST);
    const size = Math.ceil(members.length / parts);
    for (let part = 0; part < parts; part++) {
      const some = members.slice(part * size, (part + 1) * size);
      const title = some.length === 1 ? some[0].metric : family(some[0].metric);
      groups.push({ key: `${key}|${part}`, title, unit: some[0].unit, members: some });
    }
  }
  return groups;
}

/** A group a metric, a line a device: for comparing. Devices stand in the order given, so that each keeps its colour. */
export function byMetric<T extends Named & { device: string }>(
  all: readonly T[],
  devices: readonly string[],
): Group<T>[] {
  const metrics = new Map<string, T[]>();
  for (const each of [...all].sort((a, b) => compare(a.metric, b.metric))) {
    const key = `${each.metric}|${each.unit}`;
    const members = metrics.get(key);
    if (members) members.push(each);
    else metrics.set(key, [each]);
  }
  return [...metrics].map(([key, members]) => ({
    key,
    title: members[0].metric,
    unit: members[0].unit,
    members: members.sort((a, b) => devices.indexOf(a.device) - devices.indexOf(b.device)),
  }));
}

/** A metric's name without its last part. */
function family(metric: string): string {
  const cut = Math.max(...[".", "/", "_", "-", ":"].map((mark) => metric.lastIndexOf(mark)));
  const digits = /\d+$/.exec(metric);
  if (cut <= 0) return digits && digits.index > 0 ? metric.slice(0, digits.index) : metric;
  return metric.slice(0, cut);
}

/** A member's name beside its group's title. */
export function label(metric: string, title: string): string {
  if (metric === title || !metric.startsWith(title)) return metric;
  return metric.slice(title.length).replace(/^[./_:-]/, "") || metric;
}

const collator = new Intl.Collator("en", { numeric: true });

/** As people count; what an agent tells of itself comes last. */
export function compare(a: string, b: string): number {
  const own = Number(a.startsWith("agent.")) - Number(b.startsWith("agent."));
  return own || collator.compare(a, b);
}
