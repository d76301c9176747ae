/**
 * What a hand does on a chart: drag to look closer, Shift and drag (or a finger) to move along, Ctrl and wheel (or a pinch of a
 * touchpad) to zoom about the pointer, wheel sideways to move, double click to be live again.
 */

export interface Sight {
  /** What is in sight at present, milliseconds. */
  edges(): [number, number];
  show(from: number, to: number): void;
  live(): void;
}

/** A drag of fewer pixels is a click. */
const CLICK_PX = 6;

export function gestures(over: HTMLElement, sight: Sight): () => void {
  const mark = document.createElement("div");
  mark.className = "zoom-mark";
  mark.hidden = true;
  over.append(mark);
  let drag: { pointer: number; x: number; pans: boolean; from: number; to: number } | null = null;

  const share = (clientX: number) => {
    const { left, width } = over.getBoundingClientRect();
    return Math.max(0, Math.min(1, (clientX - left) / width));
  };
  const down = (event: PointerEvent) => {
    if (event.button !== 0 || !event.isPrimary) return;
    const [from, to] = sight.edges();
    drag = {
      pointer: event.pointerId,
      x: event.clientX,
      pans: event.shiftKey || event.pointerType === "touch",
      from,
      to,
    };
    over.setPointerCapture(event.pointerId);
  };
  const move = (event: PointerEvent) => {
    if (!drag || event.pointerId !== drag.pointer) return;
    const { width } = over.getBoundingClientRect();
    if (drag.pans) {
      const by = ((drag.x - event.clientX) / width) * (drag.to - drag.from);
      if (Math.abs(drag.x - event.clientX) > CLICK_PX) sight.show(drag.from + by, drag.to + by);
      return;
    }
    const [a, b] = [share(drag.x), share(event.clientX)].sort((one, other) => one - other);
    mark.hidden = Math.abs(event.clientX - drag.x) < CLICK_PX;
    mark.style.left = `${a * 100}%`;
    mark.style.width = `${(b - a) * 100}%`;
  };
  const up = (event: PointerEvent) => {
    if (!drag || event.pointerId !== drag.pointer) return;
    const { x, pans, from, to } = drag;
    drag = null;
    mark.hidden = true;
    if (pans || Math.abs(event.clientX - x) < CLICK_PX) return;
    const [a, b] = [share(x), share(event.clientX)].sort((one, other) => one - other);
    sight.show(from + a * (to - from), from + b * (to - from));
  };
  const cancel = () => {
    drag = null;
    mark.hidden = true;
  };
  const wheel = (event: WheelEvent) => {
    const [from, to] = sight.edges();
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      const factor = Math.exp(Math.max(-50, Math.min(50, event.deltaY)) / 100);
      const about = from + share(event.clientX) * (to - from);
      sight.show(about - (about - from) * factor, about + (to - about) * factor);
    } else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      const by = (event.deltaX / over.clientWidth) * (to - from);
      sight.show(from + by, to + by);
    }
  };
  const twice = () => sight.live();
  over.addEventListener("pointerdown", down);
  over.addEventListener("pointermove", move);
  over.addEventListener("pointerup", up);
  over.addEventListener("pointercancel", cancel);
  over.addEventListener("wheel", wheel, { passive: false });
  over.addEventListener("dblclick", twice);
  // All go with the element.
  return () => mark.remove();
}
