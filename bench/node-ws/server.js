// What most tutorials on Kafka to WebSocket come to: every message as JSON to every client, compressed by `ws` for each of them.
// `npm install --no-save` here, then: node server.js BOOTSTRAP TOPIC PORT
import { Kafka, logLevel } from "kafkajs";
import { WebSocket, WebSocketServer } from "ws";

const [bootstrap, topic, port] = process.argv.slice(2);
const server = new WebSocketServer({ host: "127.0.0.1", port: Number(port), perMessageDeflate: true });
const kafka = new Kafka({ clientId: "dashboard", brokers: [bootstrap], logLevel: logLevel.ERROR });
const consumer = kafka.consumer({ groupId: "dashboard" });

await consumer.connect();
await consumer.subscribe({ topic });
await consumer.run({
  eachMessage: async ({ message }) => {
    const reading = JSON.parse(message.value.toString());
    const text = JSON.stringify(reading);
    for (const client of server.clients) {
      if (client.readyState === WebSocket.OPEN) client.send(text);
    }
  },
});
