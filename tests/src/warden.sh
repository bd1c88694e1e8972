# Ends all processes that a test program has started, once that program has ended, by any signal.
# $1 is its mark, $2 the directory for temporary files. Standard input is a pipe that ends with the
# program.
trap '' HUP INT QUIT TERM
read -r _
# The next pass finds a process that is forked meanwhile. A process that cannot be ended stays, so
# the passes are limited.
look=0
while [ $look -lt 100 ] && ! head -vc 1000000 /proc/[0-9]*/environ 2> /dev/null | tr '\0' '\n' | {
    none=0
    while read -r line; do
        case $line in
            '==> /proc/'*) pid=${line#'==> /proc/'} pid=${pid%%/*} ;;
            "IPCD_TEST=$1."*) kill -KILL "$pid" 2> /dev/null && none=1 ;;
        esac
    done
    exit $none
}; do
    look=$((look + 1))
    sleep 0.05
done
rm -rf "$2/ipcd-test.$1."*
