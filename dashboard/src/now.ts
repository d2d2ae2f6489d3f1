import { useEffect, useState } from "preact/hooks";

/** This device's clock in seconds, every second while the page is looked at. */
export function useNow(): number {
  const [now, set] = useState(() => Date.now() / 1000);
  useEffect(() => {
    const timer = setInterval(() => {
      if (!document.hidden) set(Date.now() / 1000);
    }, 1000);
    return () => {
      clearInterval(timer);
    };
  }, []);
  return now;
}
