import type { TelemetryRecord } from "../data/agent";
import { byGroup, unit, valueOf, written } from "../data/fields";
import { fill } from "../text";
import { span } from "../time";
import { useWords } from "./context";

interface Props {
  record: TelemetryRecord;
  age: number;
  silent: boolean;
}

/** The newest record of a device, in the groups that the device made. */
export function Live({ record, age, silent }: Props) {
  const { texts, language } = useWords();
  const missing = record.missing ?? [];
  return (
    <section aria-labelledby="values-title">
      <h2 id="values-title">
        {texts.now}: <span class="device">{record.devID}</span>{" "}
        <small class={silent ? "old" : ""}>{fill(texts.ago, { span: span(age, texts) })}</small>
      </h2>
      <div class={silent ? "groups old" : "groups"}>
        {byGroup(record).map(([group, fields]) => (
          <section key={group} class="group">
            <h3>{group || texts.other}</h3>
            <dl>
              {fields.map((field) => (
                <div key={field} data-field={field}>
                  <dt>{field}</dt>
                  <dd>
                    {written(valueOf(record, field), language)} <small>{unit(field)}</small>
                  </dd>
                </div>
              ))}
            </dl>
          </section>
        ))}
      </div>
      {missing.length > 0 && (
        <p class="warning">{fill(texts.missing, { fields: missing.join(", ") })}</p>
      )}
    </section>
  );
}
