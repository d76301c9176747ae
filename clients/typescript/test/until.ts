/** Waits until something is so; `limit`: milliseconds. */
export async function until(what: () => boolean, limit = 4000): Promise<void> {
  for (const end = Date.now() + limit; !what(); ) {
    if (Date.now() > end) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
