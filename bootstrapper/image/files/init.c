/*
 * First program of the node: opens the verified root named by the measured command line and starts systemd.
 *
 * No shell, no fallback: whatever goes wrong, the machine powers off. Everything that decides what is mounted (root
 * hash, salt, length) is in /proc/cmdline, which is measured; partition names only say where to look.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    int error = errno;
    dprintf(2, "constellation-init: %s: %s: powering off\n", what, strerror(error));
    sync();
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}

static void attach(const char *source, const char *target, const char *type, unsigned long flags, const char *data) {
    if (mkdir(target, 0755) != 0 && errno != EEXIST)
        die(target);
    if (mount(source, target, type, flags, data) != 0)
        die(target);
}

static size_t slurp(const char *path, char *buffer, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    size_t used = 0;
    while (used < size - 1) {
        ssize_t count = read(fd, buffer + used, size - 1 - used);
        if (count <= 0)
            break;
        used += (size_t)count;
    }
    close(fd);
    buffer[used] = 0;
    return used;
}

/* Loads the modules of /m in the order of /m/order, and forgets them to free the memory. A driver may find nothing to
 * drive, and what builds on it then misses its symbols: what is really needed shows when it is used. */
static void load_modules(void) {
    static char order[8192];
    if (slurp("/m/order", order, sizeof order) == 0)
        die("/m/order");
    char *rest = NULL;
    for (char *name = strtok_r(order, "\n", &rest); name; name = strtok_r(NULL, "\n", &rest)) {
        char path[256];
        snprintf(path, sizeof path, "/m/%s", name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            die(path);
        if (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST && errno != ENODEV && errno != ENOENT)
            die(path);
        close(fd);
        unlink(path);
    }
}

/* Value of KEY= on the kernel command line; the first one counts. */
static char *parameter(const char *key) {
    static char line[4096];
    static char copy[4096];
    if (line[0] == 0 && slurp("/proc/cmdline", line, sizeof line) == 0)
        die("/proc/cmdline");
    memcpy(copy, line, sizeof copy);
    size_t length = strlen(key);
    char *rest = NULL;
    for (char *word = strtok_r(copy, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest))
        if (strncmp(word, key, length) == 0 && word[length] == '=')
            return strdup(word + length + 1);
    errno = ENOENT;
    die(key);
    return NULL;
}

/* A root hash or salt: nothing but hex digits may reach the table. */
static void demand(const char *text, const char *alphabet, size_t longest, const char *what) {
    size_t length = strlen(text);
    if (length == 0 || length > longest || strspn(text, alphabet) != length) {
        errno = EINVAL;
        die(what);
    }
}

/* Finds the block device whose partition name is NAME. */
static int find_partition(const char *name, char *path, size_t size) {
    DIR *folder = opendir("/sys/class/block");
    if (!folder)
        return 0;
    int found = 0;
    struct dirent *entry;
    while (!found && (entry = readdir(folder))) {
        char file[512], text[1024], wanted[128];
        snprintf(file, sizeof file, "/sys/class/block/%s/uevent", entry->d_name);
        if (entry->d_name[0] == '.' || slurp(file, text, sizeof text) == 0)
            continue;
        snprintf(wanted, sizeof wanted, "\nPARTNAME=%s\n", name);
        if (strstr(text, wanted)) {
            snprintf(path, size, "/dev/%s", entry->d_name);
            struct stat status;
            found = stat(path, &status) == 0;
        }
    }
    closedir(folder);
    return found;
}

static void wait_partition(const char *name, char *path, size_t size) {
    struct timespec pause_time = {.tv_nsec = 20 * 1000 * 1000};
    for (int round = 0; round < 1500; round++) {
        if (find_partition(name, path, size))
            return;
        nanosleep(&pause_time, NULL);
    }
    errno = ENODEV;
    die(name);
}

static void device_mapper(int control, unsigned long request, struct dm_ioctl *message, const char *what) {
    if (ioctl(control, request, message) != 0)
        die(what);
}

static void prepare(struct dm_ioctl *message, size_t size, uint32_t flags) {
    memset(message, 0, sizeof *message);
    message->version[0] = DM_VERSION_MAJOR;
    message->data_size = (uint32_t)size;
    message->data_start = sizeof *message;
    message->flags = flags;
    strcpy(message->name, "root");
}

/* Sets up dm-verity over the two partitions and writes the path of the verified device. */
static void open_verified(const char *data, const char *tree, char *device, size_t size) {
    char *hash = parameter("constellation.roothash");
    char *salt = parameter("constellation.salt");
    char *blocks = parameter("constellation.blocks");
    demand(hash, "0123456789abcdef", 64, "constellation.roothash");
    demand(salt, "0123456789abcdef", 64, "constellation.salt");
    demand(blocks, "0123456789", 12, "constellation.blocks");
    if (strlen(hash) != 64) {
        errno = EINVAL;
        die("constellation.roothash");
    }

    static union {
        struct dm_ioctl message;
        char room[4096];
    } request;
    int control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
    if (control < 0)
        die("/dev/mapper/control");
    prepare(&request.message, sizeof request, 0);
    device_mapper(control, DM_DEV_CREATE, &request.message, "verity: create");
    unsigned minor_number = minor(request.message.dev);

    prepare(&request.message, sizeof request, DM_READONLY_FLAG);
    request.message.target_count = 1;
    struct dm_target_spec *target = (struct dm_target_spec *)(request.room + sizeof(struct dm_ioctl));
    memset(target, 0, sizeof *target);
    target->length = strtoull(blocks, NULL, 10) * 8;
    strcpy(target->target_type, "verity");
    char *table = (char *)(target + 1);
    size_t room = sizeof request - sizeof(struct dm_ioctl) - sizeof *target;
    int length = snprintf(table, room, "1 %s %s 4096 4096 %s 1 sha256 %s %s 1 panic_on_corruption", data, tree, blocks, hash, salt);
    if (length < 0 || (size_t)length >= room) {
        errno = E2BIG;
        die("verity: table");
    }
    device_mapper(control, DM_TABLE_LOAD, &request.message, "verity: load");

    prepare(&request.message, sizeof request, 0);
    device_mapper(control, DM_DEV_SUSPEND, &request.message, "verity: resume");
    close(control);
    snprintf(device, size, "/dev/dm-%u", minor_number);
}

int main(void) {
    char data[300], tree[300], device[64];
    umask(022);
    attach("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    attach("sys", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    attach("dev", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
    load_modules();
    wait_partition("constellation-root", data, sizeof data);
    wait_partition("constellation-verity", tree, sizeof tree);
    open_verified(data, tree, device, sizeof device);
    attach(device, "/ro", "erofs", MS_RDONLY, NULL);
    attach("rw", "/rw", "tmpfs", 0, "mode=0755");
    if (mkdir("/rw/upper", 0755) != 0 || mkdir("/rw/work", 0755) != 0)
        die("/rw");
    attach("root", "/new", "overlay", 0, "lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work");
    if (mount("/ro", "/new/ro", NULL, MS_MOVE, NULL) != 0)
        die("/new/ro");
    if (mount("/dev", "/new/dev", NULL, MS_MOVE, NULL) != 0)
        die("/new/dev");
    if (mount("/proc", "/new/proc", NULL, MS_MOVE, NULL) != 0)
        die("/new/proc");
    if (mount("/sys", "/new/sys", NULL, MS_MOVE, NULL) != 0)
        die("/new/sys");
    unlink("/init");
    if (chdir("/new") != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 || chdir("/") != 0)
        die("switch root");
    char *words[] = {"/sbin/init", NULL};
    char *environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=linux", NULL};
    execve("/lib/systemd/systemd", words, environment);
    die("systemd");
}
