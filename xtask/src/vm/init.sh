#!/busybox sh
# Process 1 of the guest, in its initrd: mounts the host's files read-only under an overlay in memory, and goes there.
# The kernel's command line says what differs: sluice.modules=FOLDER sluice.job=FOLDER [sluice.share=FOLDER].
set -e
b=/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
for module in /modules/*; do $b insmod "$module"; done
for word in $($b cat /proc/cmdline); do
    case $word in
        sluice.modules=*) modules=${word#*=} ;;
        sluice.job=*) job=${word#*=} ;;
        sluice.share=*) share=${word#*=} ;;
    esac
done
$b mount -t virtiofs -o ro files /files
$b mount -t tmpfs memory /memory
$b mkdir /memory/upper /memory/work
$b mount -t overlay -o lowerdir=/files,upperdir=/memory/upper,workdir=/memory/work root /root
$b mkdir -p /root/lib/modules
$b mount --bind "/root$modules" /root/lib/modules
if [ -n "$share" ]; then $b mount -t virtiofs share "/root$share"; fi
$b umount /proc
$b mount --move /dev /root/dev
exec $b switch_root /root /bin/sh "$job/job.sh" "$job"
