/* base/notify.h: tells the service manager how it goes (sd_notify's protocol): one datagram to NOTIFY_SOCKET. */
#pragma once

/* state: "READY=1", "STOPPING=1". Nothing happens where nobody asked for it; a failure is ignored, as sd_notify does. */
void notify(const char *state);
