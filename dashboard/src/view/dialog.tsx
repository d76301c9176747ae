/** A question that has to be answered before the page goes on. Esc means no. */

import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";

export interface DialogProps {
  title: string;
  action: string;
  act: () => void;
  /** Absent: it cannot be left. */
  close?: () => void;
  danger?: boolean;
  name?: string;
  children: ComponentChildren;
}

export function Dialog({ title, action, act, close, danger = false, name = "ask", children }: DialogProps) {
  const id = useId();
  return (
    <dialog
      class={name}
      aria-labelledby={id}
      ref={(dialog) => {
        if (dialog && !dialog.open) dialog.showModal();
      }}
      onCancel={(event) => {
        event.preventDefault();
        close?.();
      }}
    >
      <form
        onSubmit={(event) => {
          event.preventDefault();
          act();
        }}
      >
        <h2 id={id}>{title}</h2>
        {children}
        <div class="answers">
          {close && (
            // What changes something is not done by an Enter too many.
            <button type="button" autofocus={danger} onClick={close}>
              Cancel
            </button>
          )}
          <button
            type="submit"
            autofocus={!danger && close !== undefined}
            class={danger ? "primary danger" : "primary"}
          >
            {action}
          </button>
        </div>
      </form>
    </dialog>
  );
}
