"""Writes two static i386 programs without a compiler: elf32-exit ends with 42; elf32-unshare asks for a user namespace
(a call that Docker's profile denies) and ends with the number of the error, 0 if it was allowed."""
import os
import struct
import sys

BASE = 0x08048000
EXIT = b"\xb8\x01\x00\x00\x00\xbb\x2a\x00\x00\x00\xcd\x80"  # mov eax, 1 (exit); mov ebx, 42; int 0x80
UNSHARE = (
    b"\xb8\x36\x01\x00\x00\xbb\x00\x00\x00\x10\xcd\x80"  # mov eax, 310 (unshare); mov ebx, CLONE_NEWUSER; int 0x80
    b"\xf7\xd8\x89\xc3\xb8\x01\x00\x00\x00\xcd\x80"  # neg eax; mov ebx, eax; mov eax, 1 (exit); int 0x80
)


def write(path, code):
    size = 52 + 32 + len(code)
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, BASE + 84, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<IIIIIIII", 1, 0, BASE, BASE, size, size, 5, 4096)
    with open(path, "wb") as f:
        f.write(header + segment + code)
    os.chmod(path, 0o755)


write(sys.argv[1] + "/elf32-exit", EXIT)
write(sys.argv[1] + "/elf32-unshare", UNSHARE)
