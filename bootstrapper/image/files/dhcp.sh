#!/bin/busybox sh
# Applies what DHCP gave (udhcpc, $1: what happened). The host's word: it decides where packets go, and nothing else.
set -eu

# Where option 121 is given, it stands for the router as well (RFC 3442); a gateway of zeros means on the link. Compute
# Engine gives a machine a network of its own (/32), so that its gateway is on no network: hence onlink.
routes() {
    if [ -n "${staticroutes:-}" ]; then
        # Words on purpose: destination and gateway by turns.
        # shellcheck disable=SC2086
        set -- $staticroutes
        while [ $# -ge 2 ]; do
            if [ "$2" = 0.0.0.0 ]; then
                ip -4 route replace "$1" dev "$interface" scope link
            else
                ip -4 route replace "$1" via "$2" dev "$interface" onlink
            fi
            shift 2
        done
    else
        for gateway in ${router:-}; do
            ip -4 route replace default via "$gateway" dev "$interface" onlink
            break
        done
    fi
}

case "$1" in
deconfig)
    # An address that is in use stays until there is another one.
    ip link set "$interface" up
    ;;
bound | renew)
    [ -z "${mtu:-}" ] || ip link set "$interface" mtu "$mtu"
    ip -4 -o addr show dev "$interface" | grep -qF " $ip/$mask " || ip -4 addr flush dev "$interface"
    ip -4 addr replace "$ip/$mask" dev "$interface"
    routes
    for server in ${dns:-}; do
        echo "nameserver $server"
    done >/etc/resolv.conf.new
    mv /etc/resolv.conf.new /etc/resolv.conf
    echo "dhcp: $1 $ip/$mask on $interface for ${lease:-?} s"
    ;;
esac
