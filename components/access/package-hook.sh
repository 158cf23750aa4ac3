# Of console-setup only the compiler of keymaps is needed: fonts, and what sets up a console by files in /etc, go.
rm -rf /usr/share/consolefonts /usr/share/consoletrans /etc/console-setup /usr/lib/console-setup \
	/usr/lib/udev/rules.d/90-console-setup.rules /etc/default/keyboard /etc/default/console-setup /etc/vconsole.conf \
	/etc/init.d/console-setup.sh /etc/init.d/keyboard-setup.sh /etc/init.d/sudo \
	/etc/rc?.d/???console-setup.sh /etc/rc?.d/???keyboard-setup.sh /etc/rc?.d/???sudo
for unit in console-setup.service keyboard-setup.service; do
	rm -f /etc/systemd/system/*.wants/"$unit" "/usr/lib/systemd/system/$unit"
done

# files/ has our own, which leads to /run.
rm -rf /etc/localtime /etc/sudoers /etc/sudoers.d
