// Posts one event each in binary and in structured mode, and two in a batch, as the JavaScript SDK of CloudEvents
// writes them; prints what was answered, one line of JSON per call.
import { CloudEvent, HTTP, Mode, emitterFor } from "cloudevents";

const [url, key] = process.argv.slice(2);

async function send(message) {
  const headers = { ...message.headers, authorization: `Bearer ${key}` };
  const answer = await fetch(`${url}/v1/events`, { method: "POST", headers, body: message.body });
  console.log(JSON.stringify({ status: answer.status, body: await answer.json() }));
}

function event(id) {
  return new CloudEvent({
    id,
    source: "/chat/acme",
    type: "threadline.message.received",
    time: "2026-03-03T08:02:00.250Z",
    subject: "Where is it?",
    traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    data: {
      channel: "chat",
      customer: { handles: [{ kind: "email", value: "Ann@Example.com", verified: false }] },
      text: 'Grüße, "quoted" 100 % \\ 👋',
    },
  });
}

await emitterFor(send, { mode: Mode.BINARY })(event("binary"));
await emitterFor(send, { mode: Mode.STRUCTURED })(event("structured"));
// The SDK reads batches and has no writer for them: a batch is an array of structured events.
const bodies = [event("batch-1"), event("batch-2")].map((one) => HTTP.structured(one).body);
await send({ headers: { "content-type": "application/cloudevents-batch+json" }, body: `[${bodies.join(",")}]` });
