# What the images of a virtual machine are made of; sourced by packaging/vm/build and
# tests/vm/run. Works in $work.

# Installs what is missing of the programs that make and run the machine.
vm_programs() {
    export DEBIAN_FRONTEND=noninteractive
    local missing=() package
    for package in binutils qemu-system-x86 busybox-static e2fsprogs cpio kmod; do
        dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
    done
    if [ "${#missing[@]}" -gt 0 ]; then
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    fi
}

# Unpacks (does not install) Debian's package PACKAGE into $work/NAME, once.
vm_unpack() {
    local package=$1 name=$2
    [ -e "$work/$name/done" ] && return
    rm -rf "${work:?}/$name" "$work/packages"
    mkdir -p "$work/$name" "$work/packages"
    (cd "$work/packages" && { apt-get download -q "$package" || { apt-get update -qq && apt-get download -q "$package"; }; } >/dev/null)
    dpkg-deb -x "$work"/packages/*.deb "$work/$name"
    touch "$work/$name/done"
}

# Debian's kernel for virtual machines: sets $release and $kernel.
vm_kernel() {
    if [ ! -e "$work/kernel/done" ]; then
        local image
        local newest='s/ *Depends: \(linux-image-[0-9].*\)/\1/p'
        image=$(apt-cache depends linux-image-cloud-amd64 | sed -n "$newest" | head -n 1)
        if [ -z "$image" ]; then
            apt-get update -qq
            image=$(apt-cache depends linux-image-cloud-amd64 | sed -n "$newest" | head -n 1)
        fi
        vm_unpack "$image" kernel
        depmod -b "$work/kernel" "$(basename "$work"/kernel/lib/modules/*)"
    fi
    release=$(basename "$work"/kernel/lib/modules/*)
    kernel=$(echo "$work"/kernel/boot/vmlinuz-*)
}

# Copies modules, and what they depend on, into a root. Those that the kernel has
# built in are passed over.
vm_modules() {
    local root=$1 module
    shift
    mkdir -p "$root/lib/modules/$release"
    cp "$work"/kernel/lib/modules/"$release"/modules.{order,builtin} "$root/lib/modules/$release/"
    for module in "$@"; do
        modprobe -d "$work/kernel" -S "$release" --show-depends "$module" 2>/dev/null || true
    done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u | while read -r file; do
        local target=$root/lib/modules/$release/${file#*"$release"/}
        mkdir -p "$(dirname "$target")"
        cp "$file" "$target"
    done
    depmod -b "$root" "$release" 2>/dev/null
}

# The names of the modules in folders of the kernel's tree.
vm_module_names() {
    local folder
    for folder in "$@"; do
        find "$work/kernel/lib/modules/$release/kernel/$folder" -name '*.ko*' -printf '%f\n' 2>/dev/null
    done | sed 's/\.ko.*//'
}

# A root of busybox alone, without an init.
vm_busybox() {
    local root=$1 applet
    rm -rf "$root"
    mkdir -p "$root"/{bin,sbin,etc,dev,proc,sys,run,tmp,root,home,boot,mnt,usr/bin,usr/sbin,usr/local,var/lib,var/log,lib/modules}
    chmod 1777 "$root/tmp"
    cp /bin/busybox "$root/bin/busybox"
    for applet in $(/bin/busybox --list | grep -vxE 'busybox|init|linuxrc'); do
        ln -sf /bin/busybox "$root/bin/$applet"
    done
    # Where the kernel, and manifests for a real Debian, look for them.
    for applet in modprobe getty syslogd fstrim ifconfig udhcpc; do
        ln -sf /bin/busybox "$root/sbin/$applet"
    done
    printf 'root::0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n' > "$root/etc/passwd"
    printf 'root:x:0:\ntty:x:5:\nnogroup:x:65534:\n' > "$root/etc/group"
}

# Copies programs of this machine, with the libraries they are linked with, into a root.
vm_copies() {
    local root=$1 program file
    shift
    for program in "$@"; do
        program=$(command -v "$program") || continue
        for file in "$program" $(ldd "$program" 2>/dev/null | grep -o '/[^ )]*'); do
            mkdir -p "$root$(dirname "$file")"
            cp -L --remove-destination "$file" "$root$file"
        done
    done
}

# Packs a folder as an initramfs.
vm_initramfs() {
    local root=$1 image=$2
    (cd "$root" && find . -print0 | cpio -0 -o -H newc --quiet -R 0:0) | gzip -1 > "$image"
}
