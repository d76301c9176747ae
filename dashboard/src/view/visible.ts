/** Which rows of a long list are in sight, when the page itself scrolls. */

import { useLayoutEffect, useState } from "preact/hooks";

export interface Visible {
  first: number;
  /** Exclusive. */
  last: number;
  /** A row's height, pixels. */
  row: number;
}

/** Rows beyond either edge, so that a quick scroll does not show bare ground. */
const SPARE = 8;

/**
 * `list` holds the rows; `--row` there is a row's height in rem. Called again whenever the page scrolls by a row or changes its size.
 */
export function useVisible(list: { current: HTMLElement | null }, count: number): Visible {
  const [visible, setVisible] = useState<Visible>({ first: 0, last: Math.min(count, 40), row: 44 });
  useLayoutEffect(() => {
    let rem = 0;
    let row = 44;
    const measure = () => {
      rem = Number.parseFloat(getComputedStyle(document.documentElement).fontSize);
      if (list.current)
        row = Number.parseFloat(getComputedStyle(list.current).getPropertyValue("--row")) * rem;
    };
    const look = () => {
      if (!list.current) return;
      if (rem === 0) measure();
      const above = Math.max(0, -list.current.getBoundingClientRect().top);
      // In steps of four rows: a redraw for every pixel is of no use.
      const first = Math.max(0, Math.floor((above / row - SPARE) / 4) * 4);
      const last = Math.min(count, Math.ceil((above + innerHeight) / row) + SPARE);
      setVisible((was) =>
        was.first === first && was.last >= last && was.last <= last + 8 && was.row === row
          ? was
          : { first, last: Math.min(count, last + 4), row },
      );
    };
    const resized = () => {
      rem = 0;
      look();
    };
    look();
    addEventListener("scroll", look, { passive: true });
    addEventListener("resize", resized);
    return () => {
      removeEventListener("scroll", look);
      removeEventListener("resize", resized);
    };
  }, [count]);
  return { ...visible, last: Math.min(visible.last, count) };
}
