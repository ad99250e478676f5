# Sourced by scripts that start programs of ours, which lie in $bin.

stop() { # PIDFILE: ends a process of ours and waits for it
  [ -s "$1" ] || return 0
  local pid; pid=$(cat "$1"); rm -f "$1"
  # After a reboot the number may be somebody else's.
  [[ $(readlink "/proc/$pid/exe") == "$bin"/* ]] || return 0
  kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
  kill -9 "$pid" 2>/dev/null || return 0
}
