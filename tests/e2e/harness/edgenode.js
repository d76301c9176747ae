import mqtt from "mqtt";
import sparkplug from "sparkplug-payload";

const { encodePayload, decodePayload } = sparkplug.get("spBv1.0");

/**
 * A Sparkplug B edge node: its payloads are sparkplug-payload's, of the authors of Eclipse Tahu. It numbers what it sends, and tells its
 * births again when it is asked to.
 */
export class EdgeNode {
  rebirths = 0;
  states = [];
  seq = 0;

  /** `metrics`: { name: { type, value, properties } }; their aliases are 1, 2, … */
  static async connect(site, mosquitto, group, name, metrics, { bdSeq = 1, host } = {}) {
    const node = new EdgeNode(group, name, metrics, bdSeq);
    const death = { timestamp: Date.now(), metrics: [{ name: "bdSeq", type: "Int64", value: bdSeq }] };
    node.client = await mqtt.connectAsync(mosquitto.url, {
      protocolVersion: 5,
      reconnectPeriod: 0,
      will: { topic: node.topic("NDEATH"), payload: Buffer.from(encodePayload(death)), qos: 1 },
    });
    site.onClose(() => node.client.endAsync(true));
    node.client.on("message", (topic, payload) => node.#take(topic, payload));
    await node.client.subscribeAsync(node.topic("NCMD"), { qos: 1 });
    if (host) await node.client.subscribeAsync(host, { qos: 1 });
    return node;
  }

  constructor(group, name, metrics, bdSeq) {
    Object.assign(this, { group, name, bdSeq });
    this.own = describe(metrics);
    this.devices = {};
  }

  topic(kind, device) {
    return `spBv1.0/${this.group}/${kind}/${this.name}${device ? `/${device}` : ""}`;
  }

  async birth() {
    this.seq = 0;
    const control = { name: "Node Control/Rebirth", type: "Boolean", value: false };
    const bdSeq = { name: "bdSeq", type: "Int64", value: this.bdSeq };
    await this.send("NBIRTH", undefined, [bdSeq, control, ...this.own]);
    for (const [device, metrics] of Object.entries(this.devices)) await this.send("DBIRTH", device, metrics);
  }

  async deviceBirth(device, metrics) {
    this.devices[device] = describe(metrics);
    await this.send("DBIRTH", device, this.devices[device]);
  }

  /** Values by alias alone, as edge nodes send them after their births. */
  data(values, device) {
    const known = device ? this.devices[device] : this.own;
    const metrics = Object.entries(values).map(([name, value]) => {
      const { alias, type } = known.find((metric) => metric.name === name);
      return { alias, type, value, timestamp: Date.now() };
    });
    return this.send(device ? "DDATA" : "NDATA", device, metrics);
  }

  send(kind, device, metrics) {
    const payload = encodePayload({ timestamp: Date.now(), seq: this.seq, metrics });
    this.seq = (this.seq + 1) % 256;
    return this.client.publishAsync(this.topic(kind, device), Buffer.from(payload), { qos: 1 });
  }

  /** It dies as the cable is cut: the broker sends its death. */
  die() {
    this.client.stream.destroy();
  }

  #take(topic, payload) {
    if (topic !== this.topic("NCMD")) {
      this.states.push(payload.toString());
      return;
    }
    const { metrics } = decodePayload(payload);
    const asked = metrics.some((metric) => metric.name === "Node Control/Rebirth" && metric.value === true);
    if (asked) {
      this.rebirths += 1;
      this.birth();
    }
  }
}

function describe(metrics) {
  return Object.entries(metrics).map(([name, metric], at) => ({ name, alias: at + 1, ...metric }));
}
