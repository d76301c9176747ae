#!/usr/bin/env bash
# What the agent's package does, for tests/packages, which runs this and has what is used here.
# shellcheck disable=SC2154

# The oldest stream in the journal, and how many of its records wait.
waits() { inside headwater-agent journal inspect --dir /var/lib/headwater-agent | awk 'NR == 2 { print $1, $4 }'; }
more_than() { [[ $(waits | cut -d" " -f2) -gt $1 ]]; }
kept() { inside headwater-agent journal inspect --dir /var/lib/headwater-agent | awk -v stream="$1" '$1 == stream && $4 > 0 { found = 1 } END { exit !found }'; }
heard() { [[ $(grep -c "Received PUBLISH from gw-01 .*/hello'" "$work/mosquitto.log") -gt $1 ]]; }
# A stream of which nothing waits any more is none of the agent's status.
acknowledged() {
  local status
  status=$(inside headwater-agent status --socket /run/headwater-agent/agent.sock) && [[ $status == *waiting* && $status != *"$1"* ]]
}
reloaded() { [[ $(inside journalctl --no-pager -u headwater-agent) == *"SIGHUP: reading the settings again"* ]]; }
start() {
  if [[ $boot == yes ]]; then
    holds "it is started" inside systemctl start headwater-agent
  else
    # /var/lib/private is passable, where systemd would mount what is in it for the service alone.
    inside install -d -m 711 /var/lib/private
    inside install -d -m 750 -o headwater-agent -g headwater-agent /var/lib/private/headwater-agent /run/headwater-agent
    inside ln -sfn private/headwater-agent /var/lib/headwater-agent
    by_hand /var/lib/private/headwater-agent /usr/bin/headwater-agent run --config /etc/headwater/agent.toml
  fi
}
stop() { [[ $boot == yes ]] || ended "$process"; }

installed
password_wanted gw-01
holds "init writes settings" inside headwater-agent init --output /etc/headwater/agent.toml
# Each key where it is there first: sources have some of the same name.
inside sed -i -e '0,/^#\?device = .*/s//device = "gw-01"/' -e '0,/^broker = .*/s||broker = "mqtt://127.0.0.1:1883"|' -e '0,/^#user = .*/s//user = "gw-01"/' \
  -e '0,/^#password_file = .*/s||password_file = "/etc/headwater/password"|' -e '0,/^age = "10s"/s//age = "1s"/' \
  -e '0,/^sync_after = "[^"]*"/s//sync_after = "1s"/' /etc/headwater/agent.toml
inside sed -i 's/^#RUST_LOG=info/RUST_LOG=debug/' /etc/default/headwater-agent
settled

start
comes "it runs" running
comes "it says hello to Mosquitto, by its password" heard 0
comes "what nobody acknowledges is in the journal" more_than 3
if [[ $boot == yes ]]; then
  comes "systemd was told that it is ready" state_is "ActiveState NRestarts" "active 0"
  holds "it takes a reload" inside systemctl reload headwater-agent
  comes "and reads its settings again" reloaded
fi
stop
read -r stream records < <(waits)

count=$(grep -c "Received PUBLISH from gw-01 .*/hello'" "$work/mosquitto.log")
upgraded
[[ $boot == yes ]] || start
comes "it runs on" running
comes "it says hello again" heard "$count"
holds "the journal was kept" kept "$stream"
holds "as many batches of it wait as before, or more" more_than "$((records - 1))"
stop
stays_disabled

removed
holds "the journal is kept" test -n "$(find "$work/memory/upper/var/lib/private/headwater-agent/journal" -type f -size +0)"

# Nobody has acknowledged anything until here. Now a relay comes; the embedded Kafka wants an agent beside it.
"$relay" demo --agents 1 --port 0 --mqtt mqtt://127.0.0.1:1884 </dev/null >"$work/relay.log" 2>&1 &
bridge=$!
began "$bridge"
comes "a relay listens" grep -q 'http://' "$work/relay.log"
holds "it is installed again" inside dpkg --install /packages/new.deb
[[ $boot == yes ]] || start
comes "with the settings kept, it runs" running
comes "what waited since before the upgrade reaches Kafka" acknowledged "$stream"
stop
ended "$bridge"
purged

# ---- a card that sets the machine up, beside a relay's settings ----

deploy/authority init "$work/ca" >/dev/null
deploy/authority endpoint "$work/ca" localhost >/dev/null
cat >"$work/relay.toml" <<END
[enroll]
listen = "127.0.0.1:8443"
state = "$work/enroll"
cert_file = "$work/ca/enroll/endpoint.crt"
key_file = "$work/ca/enroll/endpoint.key"
ca_cert_file = "$work/ca/enroll/devices-ca.crt"
ca_key_file = "$work/ca/enroll/devices-ca.key"
trust_file = "$work/ca/enroll/services-ca.crt"
crl_file = "$work/ca/revoked/devices.crl"
url = "https://localhost:8443"
broker = "mqtts://localhost:8883"
END
"$relay" enroll-server --config "$work/relay.toml" </dev/null >"$work/relay.log" 2>&1 &
began $!
comes "the endpoint for enrolment listens" listens 8443
holds "a card is made" "$relay" fleet provision --count 1 --name 'card-{}' --out "$work/cards" --config "$work/relay.toml"
install -D -m 644 "$work/cards/card-1/headwater.toml" "$work/root/boot/firmware/headwater.toml"
mkdir "$work/root/etc/headwater"
echo of the relay | tee "$work/root/etc/headwater/relay.toml" "$work/root/etc/headwater/relay.key" >/dev/null
holds "it is installed" inside dpkg --install /packages/new.deb
tls=$work/root/var/lib/headwater-agent/tls
if [[ $boot == yes ]]; then
  # As at a start of the machine: both are to start, and the agent waits for the other.
  holds "systemd starts it, after what is on the card" inside systemctl start headwater-first-boot headwater-agent
  comes "it runs" running
  tls=$work/root/var/lib/private/headwater-agent/tls
  holds "the key is its own" owned /var/lib/private/headwater-agent/tls/device.key "headwater-agent:headwater-agent 600"
else
  holds "it takes what is on the card" inside headwater-agent first-boot --wait 60
fi
holds "the key, the certificate and whom to trust are there, and no token" \
  test "$(find "$tls" -mindepth 1 -printf '%f\n' | grep -v '^endpoint-ca.pem$' | sort | xargs)" = "ca.crt device.crt device.key"
holds "the certificate is the card's" grep -q 'CN *= *card-1' <(openssl x509 -noout -subject -in "$tls/device.crt")
holds "the token is on the card no more" test "$(ls "$work/root/boot/firmware")" = headwater.taken.toml
inside cp /etc/headwater/agent.toml /etc/headwater/agent.toml.old
inside install -g headwater-agent -m 640 /packages/password /etc/headwater/password
purged ./boot/firmware ./boot/firmware/headwater.taken.toml ./etc/headwater ./etc/headwater/relay.key ./etc/headwater/relay.toml
