#!/usr/bin/env bash
# What the relay's package does, for tests/packages, which runs this and has what is used here: with a real Mosquitto, a real Kafka, and an
# agent whose readings an independent client finds in Kafka.
# shellcheck disable=SC2016,SC2154

answers() { [[ $(curl -s -m 5 -o /dev/null -w '%{http_code}' "http://127.0.0.1:9464/$1") == 200 ]]; }
# More of the agent's batches in Kafka than so many.
batches() { grep -c '"key": "gw-01"' "$work/records" 2>/dev/null || true; }
reached() { [[ $(batches) -gt $1 ]]; }
register() { inside find /var/lib/headwater-relay/enroll -name '*.json' -exec sha256sum {} + | sort; }
logged() { [[ $(inside journalctl --no-pager -u headwater-relay) == *"$1"* ]]; }
start() {
  if [[ $boot == yes ]]; then
    holds "it is started" inside systemctl start headwater-relay
  else
    inside install -d -m 700 /var/lib/headwater-relay
    inside chown -R headwater-relay:headwater-relay /var/lib/headwater-relay
    by_hand /var/lib/headwater-relay /usr/bin/headwater-relay run --config /etc/headwater/relay.toml
  fi
}
stop() { [[ $boot == yes ]] || ended "$process"; }
# It is there, and does what it is for.
serves() {
  local count
  comes "it runs" running
  comes "/healthz answers" answers healthz
  comes "it is ready: so says /readyz" answers readyz
  count=$(batches)
  [[ ! -e $work/agent.log ]] || comes "readings reach Kafka" reached "$count"
}

kafka=$(scripts/kafka start --data "$work/kafka")
bootstrap=${kafka#bootstrap=}
bootstrap=${bootstrap%% *}

installed

# ---- settings: by README.Debian, from the example, with an endpoint for enrolment ----

deploy/authority init "$work/ca" >/dev/null
deploy/authority endpoint "$work/ca" localhost >/dev/null
for pair in endpoint.crt:enroll.crt endpoint.key:enroll.key devices-ca.crt:devices-ca.crt \
  devices-ca.key:devices-ca.key services-ca.crt:services-ca.crt; do
  cp "$work/ca/enroll/${pair%:*}" "$work/root/packages/file"
  inside install -o root -g headwater-relay -m 640 /packages/file "/etc/headwater/${pair#*:}"
done
password_wanted relay
holds "the example is copied" inside cp /usr/share/doc/headwater-relay/examples/relay.toml /etc/headwater/
inside sed -i -e "s/^bootstrap = .*/bootstrap = \"$bootstrap\"/" -e 's|^broker = .*|broker = "mqtt://127.0.0.1:1883"|' -e 's/^user = .*/user = "relay"/' \
  -e '/^\[mqtt\]/,/^\[/s|^# password_file = .*|password_file = "/etc/headwater/password"|' \
  -e '/^\[enroll\]/,$s/^# \(listen\|cert_file\|key_file\|ca_cert_file\|ca_key_file\|trust_file\) = /\1 = /' /etc/headwater/relay.toml
inside sed -i 's/^#\(HEADWATER_RELAY_LOG__LEVEL\)=.*/\1=headwater_relay=debug/' /etc/default/headwater-relay
holds "check finds nothing wrong" inside headwater-relay check --config /etc/headwater/relay.toml
settled
# As root, before there is a directory of the service's own.
inside headwater-relay fleet token gw-02 --config /etc/headwater/relay.toml >"$work/token"

# ---- it runs ----

if [[ $boot == yes ]]; then
  inside sed -i '$a[nonsense]' /etc/headwater/relay.toml
  inside systemctl start headwater-relay || true
  comes "wrong settings end it, and are not tried again" state_is "ActiveState ExecMainStatus NRestarts" "failed 2 0"
  inside sed -i '$d' /etc/headwater/relay.toml
  holds "they are right again" same /etc/headwater/relay.toml "$toml"
fi
start
serves
holds "dashboards are served" curl -sf -m 5 -o /dev/null http://127.0.0.1:8080/
holds "devices can enrol" listens 8443
holds "its directory is its own" owned /var/lib/headwater-relay "headwater-relay:headwater-relay 700"
holds "and what root put there before" owned /var/lib/headwater-relay/enroll/tokens "headwater-relay:headwater-relay 700"
[[ $boot == no ]] || holds "its environment's file is read" logged DEBUG

"$HEADWATER_PYTHON" tests/e2e/python/records.py "$bootstrap" headwater.telemetry >"$work/records" 2>"$work/records.log" &
began $!
"$agent" init --output "$work/agent.toml" >/dev/null
sed -i -e '0,/^#\?device = .*/s//device = "gw-01"/' -e '0,/^broker = .*/s||broker = "mqtt://127.0.0.1:1884"|' -e '0,/^age = "10s"/s//age = "1s"/' "$work/agent.toml"
STATE_DIRECTORY=$work/state RUNTIME_DIRECTORY=$work "$agent" run --config "$work/agent.toml" </dev/null >"$work/agent.log" 2>&1 &
began $!
comes "readings reach Kafka" reached 3

if [[ $boot == yes ]]; then
  inside systemctl kill --kill-whom=main --signal=KILL headwater-relay
  comes "killed, it is started again" state_is "ActiveState SubState NRestarts" "active running 1"
  serves
fi

# ---- upgrade, stop, remove ----

stop
known=$(register)
upgraded
[[ $boot == yes ]] || start
serves
holds "what the endpoint has to remember is as it was" test "$(register)" = "$known"
# Each key where it is there first: sources have some of the same name.
sed -e '0,/^device = .*/s//device = "gw-02"/' -e "0,/^#key_file = .*/s||key_file = \"$work/gw-02.key\"|" \
  -e "0,/^#cert_file = .*/s||cert_file = \"$work/gw-02.crt\"|" -e "0,/^#ca_file = .*/s||ca_file = \"$work/gw-02.ca\"|" "$work/agent.toml" >"$work/gw-02.toml"
holds "the token of before lets its device in" \
  "$agent" enroll --config "$work/gw-02.toml" --url https://localhost:8443 --ca "$work/ca/enroll/services-ca.crt" --token-file "$work/token"
holds "its certificate is in its name" grep -q 'CN *= *gw-02' <(openssl x509 -noout -subject -in "$work/gw-02.crt")

if [[ $boot == yes ]]; then
  holds "it is stopped" inside systemctl stop headwater-relay
  holds "in order" state_is "ActiveState Result ExecMainCode ExecMainStatus" "inactive success 1 0"
  holds "nothing answers" not answers healthz
  holds "it is started" inside systemctl start headwater-relay
  serves
fi
stop
stays_disabled

known=$(register)
removed
holds "what the endpoint has to remember is kept" test "$(cd "$work/memory/upper" && find var/lib/headwater-relay/enroll -name '*.json' | wc -l)" = "$(wc -l <<<"$known")"
holds "it is installed again" inside dpkg --install /packages/new.deb
[[ $boot == yes ]] || start
serves
stop
purged

# ---- beside an agent's settings ----

holds "it is installed" inside dpkg --install /packages/new.deb
echo of the agent | tee "$work/root/etc/headwater/agent.toml" "$work/root/etc/headwater/device.key" >/dev/null
for name in relay.toml relay.key enroll.key devices-ca.key token.pub.pem; do
  inside install -o root -g headwater-relay -m 640 /packages/password "/etc/headwater/$name"
done
purged ./etc/headwater ./etc/headwater/agent.toml ./etc/headwater/device.key
