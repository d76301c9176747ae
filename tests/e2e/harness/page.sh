#!/usr/bin/env bash
# The box in which a page is followed: sourced by a script that harness/pages.js writes, in namespaces of its own, as their root.
# BOX: a directory; PROGRAMS: where ours are; PYTHON: one with pymodbus; REPOSITORY.
set -uo pipefail
# Whether this machine's clock is kept by something is not what the pages are about.
export HEADWATER_AGENT_CLOCK__TRUST=always
# Nor is what a batch waits for.
export HEADWATER_AGENT_BATCH__AGE=1s
export PATH=$PROGRAMS:$PATH:/usr/sbin:/sbin REPOSITORY PYTHON

fail() {
  echo "$*"
  exit 1
}

# ---- a machine as the pages' reader has it ----

ip link set lo up || fail "no network of its own"
mkdir -p "$BOX"/{etc,dev,home,state,tmp,usr}
echo gw-01 >/proc/sys/kernel/hostname
# Ports are claimed there, and in a network of its own those of others are none.
export TMPDIR=$BOX/tmp
cp -a /etc/. "$BOX/etc/" 2>/dev/null
mount --bind "$BOX/etc" /etc || fail "no /etc of its own"
mkdir -p /etc/headwater
# What the page installs is here alone.
mount -t tmpfs tmpfs "$BOX/usr" || fail "no memory for what is installed"
mkdir "$BOX/usr"/{upper,work}
mount -t overlay overlay -o "lowerdir=/usr,upperdir=$BOX/usr/upper,workdir=$BOX/usr/work" /usr || fail "no /usr of its own"
mount --rbind /dev "$BOX/dev"
# What waits on flash has to be on a disk here too.
mount --bind "$BOX/state" /var/lib || fail "no /var/lib of its own"
for place in /sys /run /srv /dev; do
  mount -t tmpfs tmpfs "$place" || fail "no $place of its own"
done
for node in null zero full random urandom tty; do
  : >"/dev/$node"
  mount --bind "$BOX/dev/$node" "/dev/$node" || fail "no /dev/$node"
done
mkdir /dev/pts /dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts || fail "no terminals of its own"
ln -s pts/ptmx /dev/ptmx
ln -s /proc/self/fd /dev/fd
mkdir -p /var/lib/headwater-agent /run/headwater-agent
cd "$BOX/home" || exit 1

# ---- what the hidden parts of pages use ----

# Waits until a command succeeds.
wait_for() {
  local deadline=$((SECONDS + 60))
  until "$@" >/dev/null 2>&1; do
    [[ $SECONDS -lt $deadline ]] || fail "waited a minute in vain for: $*"
    sleep 0.1
  done
}

listens() { (: >"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Starts a program that goes on; its output goes to a file of that name in the box.
start() {
  local name=$1
  shift
  "$@" >"$BOX/$name.log" 2>&1 &
}

# Whether an address http://HOST:PORT/PATH answers 200.
answers() {
  local place=${1#http://}
  local host=${place%%/*}
  (
    exec 3<>"/dev/tcp/${host%:*}/${host#*:}" || exit 1
    printf 'GET /%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "${place#*/}" "$host" >&3
    read -r line <&3 && [[ $line == *" 200"* ]]
  ) 2>/dev/null
}

# Mosquitto at port 1883 for everybody, as Debian's package runs it on one machine.
mosquitto_runs() {
  start mosquitto mosquitto -p 1883
  wait_for listens 1883
}

# A relay behind that broker, at its usual ports. Its Kafka is the demo's.
relay_runs() {
  [[ -e $BOX/mosquitto.log ]] || mosquitto_runs
  start relay headwater-relay demo --mqtt mqtt://127.0.0.1:1883 --agents 1
  wait_for grep -q Metrics "$BOX/relay.log"
  wait_for answers "$(sed -n 's,.*Metrics *\(http.*\)/metrics.*,\1/readyz,p' "$BOX/relay.log")"
}

# What `systemctl restart headwater-agent` does, with the settings where the unit has them.
agent_runs() {
  start agent headwater-agent run --config /etc/headwater/agent.toml
}

# A file of the kernel's, with its text.
kernel() {
  mkdir -p "$(dirname "$1")"
  printf '%s\n' "$2" >"$1"
}

# On a machine that is somebody's, one does this as root.
sudo() { "$@"; }

export -f wait_for fail listens answers start mosquitto_runs relay_runs agent_runs kernel sudo
export BOX

# ---- what the script says ----

put() { # FILE BODY: the page has the reader write this file
  mkdir -p "$(dirname "$1")"
  cp "$2" "$1"
}

# How a block is run: once, and it has to succeed; fails: once, and it has to fail; retry: until it succeeds; background: it goes on;
# watch: until it has printed so many lines, as somebody who then presses Ctrl-C.
step() { # HOW BODY PRINTED PLACE LINES
  local how=$1 body=$2 printed=$3 place=$4 lines=$5 deadline watched
  echo "-- $place ($how)"
  case $how in
    once) timeout 200 bash -euo pipefail "$body" >"$printed" 2>&1 || {
      tail -n 40 "$printed"
      fail "$place failed"
    } ;;
    fails) timeout 60 bash -euo pipefail "$body" >"$printed" 2>&1 && fail "$place should have failed" ;;
    background) bash -euo pipefail "$body" >"$printed" 2>&1 & ;;
    retry)
      deadline=$((SECONDS + 60))
      until timeout 60 bash -euo pipefail "$body" >"$printed" 2>&1; do
        [[ $SECONDS -lt $deadline ]] || {
          tail -n 40 "$printed"
          fail "$place failed for a minute"
        }
        sleep 0.2
      done
      ;;
    watch)
      setsid bash -euo pipefail "$body" >"$printed" 2>"$printed.errors" &
      watched=$!
      deadline=$((SECONDS + 60))
      until [[ $(wc -l <"$printed") -ge $lines ]]; do
        [[ $SECONDS -lt $deadline ]] || {
          tail -n 40 "$printed" "$printed.errors"
          fail "$place printed no $lines lines in a minute"
        }
        sleep 0.1
      done
      kill -INT -- "-$watched"
      ;;
    *) fail "$place: test $how?" ;;
  esac
  return 0
}
