# A workout of busybox: the output is the same on every correct machine.
# Run as `busybox sh workout.sh` with BB naming the busybox to use; `cargo xtask guest` makes it part of the workout guest.
exec 2>/dev/null
BB=${BB:-/bin/busybox}
export LC_ALL=C TZ=UTC
dir=$("$BB" mktemp -d) || exit 1
cd "$dir" || exit 1
b() { "$BB" "$@"; }

echo "[data]"
b seq 1 6000 | b awk '{ printf "%d %.6f %s\n", $1 * 7919 % 10007, ($1 * 37 % 1009) / 7 - 50, sprintf("%x", $1 * 2654435761 % 4294967296) }' >data
b wc data
b head -n 3 data
b yes 'the same line again and again' | b head -n 2000 >dull
b cat data dull data >both

echo "[checksums]"
for sum in md5sum sha1sum sha256sum sha512sum sha3sum crc32; do
	echo "$sum $(b $sum data) $(b $sum <both)"
done
b base64 data | b md5sum
b xxd data | b tail -n 2
b uuencode name <data | b md5sum

echo "[compress]"
for level in 1 6 9; do
	b gzip -$level -c both >both.gz
	echo "gzip -$level $(b wc -c <both.gz) $(b gunzip -c both.gz | b md5sum)"
done
b bzip2 -c both >both.bz2
echo "bzip2 $(b wc -c <both.bz2) $(b bunzip2 -c both.bz2 | b md5sum)"
b lzop -c both >both.lzo 2>/dev/null
echo "lzop $(b lzop -dc both.lzo | b md5sum)"
b dd if=both.gz of=broken.gz bs=1000 count=3 2>/dev/null
b gunzip -c broken.gz >/dev/null 2>&1
echo "truncated gzip $?"
b mkdir -p tree/a/b
b cp data tree/a; b cp dull tree/a/b; b ln -s ../a/data tree/link
b tar -cf - tree/a/data tree/a/b/dull | b tar -tf -
b tar -cf - tree | b gzip -c | b gunzip -c | b tar -xOf - tree/a/b/dull | b md5sum
(cd tree && b find . -type f | b sort | b cpio -o -H newc 2>/dev/null) | b cpio -t 2>/dev/null

echo "[sort]"
b sort data | b md5sum
b sort -n data | b md5sum
b sort -k2 -g data | b head -n 2
b sort -rn -k1 data | b uniq -w 2 2>/dev/null | b wc -l
b cut -d' ' -f1 data | b sort -n | b uniq -c | b sort -rn -k1 -k2 | b head -n 3
b tac data | b rev | b md5sum

echo "[awk]"
b awk 'BEGIN {
	for (i = 0; i < 12; i++) {
		x = (i - 6) * 2.718281828 / 3
		root = 1; for (j = 0; j < 9; j++) root = (root + x * x / root) / 2
		sine = term = x; for (j = 1; j < 30; j++) { term = -term * x * x / (2 * j * (2 * j + 1)); sine += term }
		printf "%.17g %e %g %.3f %d | %.17g %.17g %.17g\n", x, x, x, x, x * 1000, root, sine, x / 7e300 / 3e20
	}
	printf "%.15g %.15g %g %g %g\n", 1 / 3, 10 % 3.7, 1e308 * 10, -1e308 * 10, int(-2.5)
	while (n < 20000) { n++; s += 1 / (n * n) }
	printf "%.15f\n", s
}'
b awk '{ sum[$1 % 10] += $2 } END { for (i = 0; i < 10; i++) printf "%d %.6f\n", i, sum[i] }' data
b printf '%.10f %e %g %x %o\n' 3.14159265358979 1e100 0.0001 255 8
echo '2 64 ^ p 10 k 2 v p 1 3 / p' | b dc
echo 'scale=40; 4*a(1); e(1); sqrt(2); 2^200' | b bc -l

echo "[shell]"
fib() { if [ "$1" -lt 2 ]; then echo "$1"; else echo $(($(fib $(($1 - 1))) + $(fib $(($1 - 2))))); fi; }
echo "fib $(fib 9)"
i=0; hash=5381
while [ $i -lt 2000 ]; do hash=$(((hash * 33 + i) & 0xffffffff)); i=$((i + 1)); done
echo "hash $hash $((-7 / 2)) $((-7 % 3)) $((1 << 40)) $((0x7fffffffffffffff + 1))"
for i in 1 2 3 4 5 6 7 8; do (exit $((i * 10))); echo "exit $?"; done
trap 'echo usr1' USR1; kill -USR1 $$; trap - USR1
b sleep 60 & pid=$!; kill -TERM $pid; wait $pid 2>/dev/null; echo "killed $?"
b timeout 1 "$BB" sleep 60; echo "timeout $?"
(echo one; b sleep 0.1; echo two) | while read -r word; do echo "read $word"; done
b mkfifo pipe; (b seq 1 1000 >pipe &) ; b awk '{ s += $1 } END { print "fifo " s }' pipe
for i in 1 2 3 4 5 6; do (b seq $i 400 | b sort -r | b md5sum >job$i) & done; wait; b cat job1 job2 job3 job4 job5 job6 | b md5sum
b find "$BB" -maxdepth 0 | b xargs -n 1 "$BB" cmp "$BB" && echo "xargs ok"
b seq 1 200 | b xargs -P 4 -n 1 "$BB" echo | b sort -n | b md5sum
b sed -n -e 's/\([0-9]*\) \(.*\) \(.*\)/\3:\1/' -e '/^777/p' data | b head -n 5
b grep -E -c '^[0-9]*7 -?[0-9]+\.[0-4]' data
b diff data both | b md5sum
b seq 1 50 | b shuf | b sort -n | b md5sum
b factor 600851475143 1099511627689
b cal 2 2000 | b md5sum
b date -d @1234567890 '+%Y-%m-%d %H:%M:%S %j'
b expr 12345679 '*' 9
cd / && b rm -r "$dir"
echo "[end]"
