/** Promises of others that may never come true. */

/** How long a caller's function may take to bring a token or an address. */
export const PATIENCE_MS = 30_000;

/** What `promise` brings, or an error that says what did not come, after so many milliseconds. */
export async function within<T>(ms: number, what: string, promise: T | Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, refuse) => {
    timer = setTimeout(() => refuse(new Error(`no ${what} after ${ms / 1000} s`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
