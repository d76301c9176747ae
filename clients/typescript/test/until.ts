/** Waits until something is so; four seconds at most. */
export async function until(what: () => boolean): Promise<void> {
  for (const end = Date.now() + 4000; !what(); ) {
    if (Date.now() > end) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
