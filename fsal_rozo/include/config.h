/* SPDX-License-Identifier: LGPL-3.0-or-later */
/*
 * The build options of Debian's nfs-ganesha 4.3, as far as its headers ask for them.
 *
 * Every header of Ganesha includes "config.h", which its own build generates and Debian does
 * not ship. This one is for compiling the plugin only. The first group decides the size and
 * the layout of structs and the numbering of enums that the plugin shares with the server: a
 * wrong line there is memory corruption, not a compile error. ganesha_abi.c holds the
 * assertions. The second group only decides which declarations are visible.
 *
 * Must stay undefined, because Debian's build leaves them off and they change structs:
 * DEBUG_SAL, RPC_VSOCK, _USE_NFS_RDMA, USE_LTTNG, SANITIZE_ADDRESS.
 */
#ifndef ROZO_GANESHA_CONFIG_H
#define ROZO_GANESHA_CONFIG_H

/* Layout of structs and numbering of enums. */
#define _USE_NFS3 1
#define _USE_NLM 1
#define _USE_RQUOTA 1
#define USE_NFSACL3 1
#define _USE_9P 1
#define _HAVE_GSSAPI 1
#define HAVE_KRB5 1

/* Visibility of declarations. */
#define LINUX 1
#define LITTLEEND 1
#define HAVE_STRING_H 1
#define HAVE_STRNLEN 1
#define HAVE_URCU_REF_GET_UNLESS_ZERO 1
#define NFS_GANESHA 1
#define _LGPL_SOURCE 1

#define GANESHA_VERSION_MAJOR 4
#define GANESHA_VERSION_MINOR .3
#define GANESHA_VERSION "4.3"

#endif
