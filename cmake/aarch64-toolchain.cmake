# Cross-compiles for 64-bit ARM with Debian's or Ubuntu's gcc-aarch64-linux-gnu, and
# lets ctest run the programs under qemu's user mode. scripts/check-arm.sh makes the
# sysroot and sets the variables:
#   MXLM_ARM_SYSROOT  folder with the C library and mxlm's libraries for arm64
#   MXLM_ARM_EMULATOR qemu-aarch64 or qemu-aarch64-static
# (from the environment, because CMake reads this file again in its own test projects,
# which do not see the cache)
foreach(variable MXLM_ARM_SYSROOT MXLM_ARM_EMULATOR)
  if(NOT DEFINED ENV{${variable}})
    message(FATAL_ERROR "${variable} is not set; scripts/check-arm.sh (make check-arm) sets it")
  endif()
endforeach()

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_SYSROOT $ENV{MXLM_ARM_SYSROOT})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)

set(ENV{PKG_CONFIG_SYSROOT_DIR} ${CMAKE_SYSROOT})
set(ENV{PKG_CONFIG_LIBDIR} ${CMAKE_SYSROOT}/usr/lib/aarch64-linux-gnu/pkgconfig)

set(CMAKE_CROSSCOMPILING_EMULATOR $ENV{MXLM_ARM_EMULATOR} -L ${CMAKE_SYSROOT})
