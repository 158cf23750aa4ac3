# Our own darkpipe-wifi@.service starts it, one for each radio; nothing else may, D-Bus included.
rm -f /etc/systemd/system/*.wants/wpa_supplicant.service /etc/systemd/system/dbus-fi.w1.wpa_supplicant1.service \
	/usr/share/dbus-1/system-services/fi.w1.wpa_supplicant1.service
rm -rf /etc/ifplugd /etc/network /etc/wpa_supplicant
ln -sf /dev/null /etc/systemd/system/wpa_supplicant.service
